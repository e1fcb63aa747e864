"""Rows of ``benchmarks/RELIABILITY.md``, printed after the tests that counted them."""

from collections.abc import Callable

import pytest
from faults.bed import Tally
from stores.conftest import bucket, moto_port, s3  # noqa: F401 - fixtures

_HEAD = "| fault | how it is made | times | blocks lost | blocks computed twice | hang | result identical | {} |"
_tallies: list[Tally] = []


@pytest.fixture
def tally() -> Callable[[str, str], Tally]:
    """A new row: fault, how it is made."""

    def begin(fault: str, how: str) -> Tally:
        _tallies.append(Tally(fault, how))
        return _tallies[-1]

    return begin


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = [tally.row for tally in _tallies if tally.times]
    if rows and "faults" in config.option.markexpr:
        terminalreporter.section("faults")
        for line in (_HEAD.format("exit code: message"), "|---" * 8 + "|", *rows):
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long ones out unless they are asked for: other markers are chosen by -m as well."""
    if "faults" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("faults")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
