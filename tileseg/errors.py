"""What can go wrong, in the user's words, each with the exit code that the command line gives it."""

from __future__ import annotations

import errno
from collections.abc import Iterable


class TilesegError(Exception):
    """The run failed, and running it again may help. The message is one line, written for the user."""

    exit_code = 1


class UsageError(TilesegError, ValueError):
    """The command, an option or a configuration file asks for something that makes no sense."""

    exit_code = 2


class OutputsGone(UsageError):
    """Outputs of a finished run were removed, and nothing that is left gives them again."""


class InputError(TilesegError):
    """The input cannot be used: running the same command again is useless."""

    exit_code = 42


class Unreachable(TilesegError, OSError):
    """A server fails or does not answer: trying again may help."""


class LockedError(TilesegError):
    """Another process is working on the same output folder."""

    exit_code = 75


class Interrupted(TilesegError):
    """The user stopped the run; what was finished is kept."""

    exit_code = 130


class BlocksFailed(TilesegError):
    """Some blocks could not be computed; the others are finished and kept."""

    def __init__(self, message: str, *, hopeless: bool) -> None:
        super().__init__(message)
        self.exit_code = InputError.exit_code if hopeless else TilesegError.exit_code


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)`` with the known word that is most like this one, case apart; empty where none is."""
    from difflib import get_close_matches

    by_fold = {name.casefold(): name for name in known if name != word}
    close = get_close_matches(word.casefold(), by_fold, 1)
    return f" (did you mean {by_fold[close[0]]}?)" if close else ""


def disk_full(error: BaseException) -> bool:
    """Whether whatever is written next would fail too, and only the user can help."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def root_of(error: BaseException) -> BaseException:
    """What an error was raised because of, first of all: as a rule the library's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line of at most 300 characters; its kind where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:300] for line in lines if line), type(error).__name__)


def not_writable(place: object, error: OSError) -> InputError:
    """The refusal of an output folder, made of what the system says."""
    return InputError(f"{place}: cannot be written: {error.strerror or error}; choose another --out")
