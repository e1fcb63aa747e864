"""What Ctrl-C does, once and twice."""

import os
import signal
import subprocess
import sys

import pytest

from tileseg.cli import main as cli_main
from tileseg.cli.interrupt import BLOCKS, stop_on_interrupt
from tileseg.errors import Interrupted


class Lines:
    """A screen that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)

    def close(self) -> None:
        self.told.append("closed")


def test_the_first_asks_for_an_orderly_end() -> None:
    before, lines = signal.getsignal(signal.SIGTERM), Lines()
    with stop_on_interrupt(lines, *BLOCKS) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        assert lines.told == ["stopping: finishing the blocks in flight (Ctrl-C again stops at once)"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_that_was_meant_shows_no_traceback(monkeypatch, capsys) -> None:
    def stopped() -> None:
        raise Interrupted("stopped: 3 of 9 blocks are done and kept")

    monkeypatch.setattr(cli_main, "app", stopped)
    monkeypatch.setattr("sys.argv", ["tileseg", "run", "a.tif", "-v"])
    with pytest.raises(SystemExit) as caught:
        cli_main.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "tileseg: stopped: 3 of 9 blocks are done and kept\n"


def test_the_second_does_not_wait() -> None:
    code = (
        "import os, signal, threading\n"
        "from tileseg.cli.interrupt import stop_on_interrupt\n"
        "class Lines:\n"
        "    def notice(self, text): print(text, flush=True)\n"
        "    def close(self): print('closed', flush=True)\n"
        "threading.Thread(target=threading.Event().wait).start()\n"  # what would keep an orderly end waiting
        "with stop_on_interrupt(Lines(), 'one thing', 'another'):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 130
    assert told.stdout == "stopping: one thing (Ctrl-C again stops at once)\nclosed\n"
    assert told.stderr == "tileseg: stopped at once; another\n"
