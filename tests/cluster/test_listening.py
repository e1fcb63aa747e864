"""Who may reach what tileseg starts: this machine alone, unless the user says otherwise."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tileseg.cluster.local import local_cluster
from tileseg.cluster.start import started_cluster
from tileseg.spec import ClusterSpec


def listening(process: psutil.Process) -> set[str]:
    """Addresses (without ports) at which a process and its descendants take connections."""
    family = [process, *process.children(recursive=True)]
    return {
        connection.laddr.ip
        for member in family
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
def test_a_local_cluster_is_reached_from_this_machine_alone() -> None:
    before = listening(psutil.Process())
    with local_cluster(1, 1, 1) as client:
        client.wait_for_workers(1)
        assert listening(psutil.Process()) - before <= {"127.0.0.1"}
        assert listening(psutil.Process())


@pytest.mark.parametrize(
    ("arguments", "expected"), [({}, {"127.0.0.1"}), ({"dashboard_address": "0.0.0.0:0"}, {"127.0.0.1", "0.0.0.0"})]
)
def test_the_dashboard_of_a_class_is_for_this_machine_unless_the_user_says_otherwise(arguments, expected) -> None:
    before = listening(psutil.Process())
    given = {"n_workers": 0, **arguments}
    with started_cluster(ClusterSpec.model_validate({"class": "distributed.LocalCluster", "arguments": given})):
        assert listening(psutil.Process()) - before == expected - before


@pytest.mark.slow
def test_a_worker_for_a_scheduler_elsewhere_serves_its_pages_to_this_machine_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"])
    worker = None
    try:
        until = time.monotonic() + 300
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        worker = subprocess.Popen([sys.executable, "-m", "tileseg", "worker", address, "--device", "cpu"])
        pages: dict[int, str] = {}
        while not pages and time.monotonic() < until:
            time.sleep(0.2)
            found = ((c.laddr.port, c.laddr.ip) for p in family(worker) for c in p.net_connections("inet"))
            pages = {port: ip for port, ip in set(found) if answers_http(port)}
        assert set(pages.values()) == {"127.0.0.1"}
    finally:
        for process in (worker, scheduler):
            if process is not None:
                process.terminate()
                process.wait(60)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def answers_http(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):
        return False
