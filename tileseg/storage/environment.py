"""What the environment says of servers."""

from __future__ import annotations

import os

from tileseg.errors import UsageError

SILENT = "TILESEG_HTTP_TIMEOUT"
"""Environment variable: seconds that a server may take for one request."""

_SILENT_SECONDS = 30.0

_YES = {"yes", "true", "on", "1"}


def s3_endpoint() -> str | None:
    """Where S3 is spoken, if not at Amazon's."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return next((value.rstrip("/") for name in names if (value := os.environ.get(name))), None)


def is_yes(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "").strip().lower() in _YES


def silent_seconds() -> float:
    """Seconds that a server may take for one request."""
    try:
        return max(1.0, float(os.environ.get(SILENT, _SILENT_SECONDS)))
    except ValueError:
        raise UsageError(f"{SILENT}={os.environ[SILENT]}: expected a number of seconds") from None
