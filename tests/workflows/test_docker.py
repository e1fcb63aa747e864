"""docker/: linted images, compose files that follow the schema, and commands that compute. Nothing is built here."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from archives import delivered, draw_archive
from distributed import Client
from fakes import save_tiny_onnx

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docker"
BESIDE = Path(sys.executable).parent
IMAGES = ("Dockerfile.cpu", "Dockerfile.gpu")
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Keyword and text of each instruction, continued lines joined, comments left out."""
    lines = [line for line in (FOLDER / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines() if line.strip()]


def last_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    begins = max(i for i, (keyword, _) in enumerate(found) if keyword == "FROM")
    return found[begins:]


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_finds_nothing(name) -> None:
    command = [BESIDE / "hadolint", "--no-color", "--config", FOLDER / "hadolint.yaml", FOLDER / name]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_follow_the_schema(name) -> None:
    command = [BESIDE / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / name]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_both_images_are_the_same_but_for_the_gpu() -> None:
    cpu, gpu = map(instructions, IMAGES)
    assert len(cpu) == len(gpu)
    differing = [(one[1], other[1]) for one, other in zip(cpu, gpu, strict=True) if one != other]
    assert [other.replace("gpu,", "") for _, other in differing[:1]] == [differing[0][0]]
    assert [re.sub(r"NVIDIA_\w+=\S+ +", "", other).split() for _, other in differing[1:]] == [differing[1][0].split()]


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_left_in_the_image(name) -> None:
    stage = last_stage(name)
    told = dict(stage)
    assert told["USER"] == "1000:1000"
    assert told["ENTRYPOINT"] == '["tileseg"]'
    assert told["HEALTHCHECK"].endswith('CMD ["tileseg", "doctor"]')
    runs = " ".join(text for keyword, text in stage if keyword == "RUN")
    assert "pip uninstall" in runs
    assert not re.search(r"pip install|build-essential|gcc|-dev\b", runs)
    assert [text for keyword, text in stage if keyword == "COPY"] == ["--from=build /opt/tileseg /opt/tileseg"]


@pytest.mark.parametrize("name", IMAGES)
def test_the_build_gets_what_it_needs_and_nothing_else(name) -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = [text for keyword, text in instructions(name) if keyword == "COPY" and "--from" not in text]
    needed = {source.removeprefix("./") for text in copied for source in text.split()[:-1]}
    assert needed == allowed
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= needed  # without which there is no wheel
    assert all((REPOSITORY / path).exists() for path in needed)
    extras = re.search(r'"\.\[(.+?)\]"', (FOLDER / name).read_text())
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert "-c constraints.txt" in (FOLDER / name).read_text()


def test_the_gpu_file_changes_services_that_there_are() -> None:
    changed = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text(encoding="utf-8"))["services"]
    assert set(changed) == set(COMPOSE["services"])
    assert {service["image"] for service in changed.values()} == {"tileseg:gpu"}


# --- The commands of the compose file, on this machine ----------------------------------------------------------


def words(service: dict[str, Any], port: int) -> list[str]:
    """What a service's container runs, here: two blocks of a small cluster are enough."""
    said = [*service.get("entrypoint", ["tileseg"]), *service["command"]]
    here = {"8786": str(port), ":8787": "127.0.0.1:0", "tcp://scheduler:8786": f"tcp://127.0.0.1:{port}"}
    changed = [here.get(word, word) for word in said]
    if changed[0] == "dask":
        changed += ["--host", "127.0.0.1"]
    return [str(BESIDE / changed[0]), *changed[1:]]


@contextmanager
def started(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
        try:
            yield
        finally:
            process.terminate()
            process.wait(300)


@pytest.mark.slow
def test_the_commands_of_the_compose_file_compute_scenes(tmp_path) -> None:
    save_tiny_onnx(tmp_path / "tiny")
    draw_archive(tmp_path / "scenes", [(190, 240), (130, 70)])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    services = COMPOSE["services"]
    options = ["scenes", "--model", "tiny", "--block", "64", "--precision", "float32"]
    environment = {
        **os.environ,
        **services["tileseg"]["environment"],
        "DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{port}",
    }
    assert services["tileseg"]["environment"] == {"DASK_SCHEDULER_ADDRESS": "tcp://scheduler:8786"}
    check = services["worker"]["healthcheck"]["test"][1:]
    assert f":{8786:04X} 01" in check
    check = [word.replace(f"{8786:04X}", f"{port:04X}") for word in check]
    with ExitStack() as stack:
        for name in ("scheduler", "worker"):
            assert subprocess.run(check, check=False).returncode == 1
            stack.enter_context(started(words(services[name], port), tmp_path / f"{name}.log"))
        with Client(f"tcp://127.0.0.1:{port}", timeout=300, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=300)
        assert subprocess.run(check, check=False).returncode == 0  # as healthy as it says
        command = [BESIDE / "tileseg", "batch", *options, "--out", "results"]
        told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    logs = "\n".join((tmp_path / f"{name}.log").read_text()[-3000:] for name in ("scheduler", "worker"))
    assert told.returncode == 0, told.stderr + logs
    assert "workers: 1 on" in told.stderr
    plain = subprocess.run(
        [BESIDE / "tileseg", "batch", *options, "--out", "plain", "--workers", "0"], cwd=tmp_path, check=False
    )
    assert plain.returncode == 0
    assert delivered(tmp_path / "results") == delivered(tmp_path / "plain")
