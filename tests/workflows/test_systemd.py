"""workflows/systemd: units that systemd accepts, exit codes mapped, a command that exists."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tileseg.cli.main import app
from tileseg.errors import InputError, Interrupted, LockedError, TilesegError, UsageError

FOLDER = Path(__file__).parents[2] / "workflows" / "systemd"
UNITS = ("tileseg-watch.service", "tileseg-watch.timer")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def unit(name: str) -> dict[str, dict[str, str]]:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FOLDER / name).read_text(encoding="utf-8"))
    return {section: dict(parser[section]) for section in parser.sections()}


SERVICE = unit("tileseg-watch.service")["Service"]


@needs_systemd
def test_systemd_accepts_the_units(tmp_path) -> None:
    program = SERVICE["ExecStart"].split()[0]
    for name in UNITS:
        text = (FOLDER / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(program, sys.executable))  # a program that is there
    command = ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in UNITS)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


@needs_systemd
def test_the_service_is_shut_in() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=16", FOLDER / "tileseg-watch.service"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in told.stderr:
        pytest.skip("systemd older than 250 cannot tell")
    assert told.returncode == 0, told.stdout


def test_exit_codes_mean_what_tileseg_means() -> None:
    fine = {0, *map(int, SERVICE["SuccessExitStatus"].split())}
    useless = set(map(int, SERVICE["RestartPreventExitStatus"].split()))
    assert fine == {0, Interrupted.exit_code}
    assert useless == {UsageError.exit_code, InputError.exit_code}
    assert SERVICE["Restart"] == "on-failure"  # so what is left is tried again:
    assert not {TilesegError.exit_code, LockedError.exit_code} & (fine | useless)


def test_the_command_does_what_is_in_the_folder(tmp_path) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "new.tif").touch()
    (tmp_path / "scenes" / "coming.tif.part").touch()
    words = shlex.split(SERVICE["ExecStart"].replace("/srv/tileseg", str(tmp_path)))[1:]
    told = CliRunner().invoke(app, [*words, "--dry-run"])
    assert told.exit_code == 0, told.output
    assert told.stdout == f"{tmp_path}/scenes/new.tif -> {tmp_path}/results/new.tileseg\n"
    assert SERVICE["ReadWritePaths"] == "/srv/tileseg/results"
