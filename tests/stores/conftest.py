"""A real S3 server, moto's, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from buckets import KEY, SECRET, Bucket, forget_stores
from fakes import smooth_noise, write_scene


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3(moto_port: int) -> Any:
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{moto_port}", region_name="us-east-1", aws_access_key_id=KEY,
        aws_secret_access_key=SECRET, config=Config(retries={"max_attempts": 5}),
    )  # fmt: skip


_count = iter(range(10_000))


@pytest.fixture
def bucket(s3, moto_port: int, monkeypatch) -> Bucket:
    """A new bucket, and an environment in which it is found."""
    settings = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto_port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "TILESEG_HTTP_TIMEOUT": "20",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_NO_SIGN_REQUEST", "AWS_SESSION_TOKEN", "AWS_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    forget_stores()
    name = f"bucket-{next(_count)}"
    s3.create_bucket(Bucket=name, ACL="public-read")
    return Bucket(name, moto_port, s3)


@pytest.fixture(scope="session")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(301, 403, 3))
