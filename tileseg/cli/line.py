"""Text for one line of a terminal."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""A text in one line, whatever names of files are in it: a newline is written as ``\n``, a tab as ``\t``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def span(seconds: float) -> str:
    """Seconds as ``minutes:seconds``, from an hour on as ``hours:minutes:seconds``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
