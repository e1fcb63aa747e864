"""Where blocks are computed: from options and files to a connection, and what is said when there is none."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fakes import save_tiny_onnx, smooth_noise, write_scene

from tileseg import run
from tileseg.cluster import connect as connecting
from tileseg.cluster import schedule, start
from tileseg.cluster.admission import Needs
from tileseg.cluster.connect import connect
from tileseg.cluster.dashboard import dashboard
from tileseg.cluster.hardware import Gpu
from tileseg.cluster.local import local_cluster
from tileseg.cluster.security import security_for
from tileseg.cluster.serve import devices_of
from tileseg.engine.kinds import ENGINES
from tileseg.errors import TilesegError, UsageError
from tileseg.nn.folder import EMBEDDED, load_card, resolve_model
from tileseg.run.prepare import prepare
from tileseg.source.scene import open_scene
from tileseg.spec import ClusterSpec, RunSpec

GPUS = (Gpu(0, "GPU-a", "first", None, None), Gpu(3, "GPU-b", "second", None, None))


def spec_file(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def test_a_file_that_names_a_class(tmp_path) -> None:
    file = spec_file(
        tmp_path,
        "class: dask_jobqueue.SLURMCluster\narguments: {queue: gpu, cores: 2}\nadapt: {maximum: 9}\nwait: 3600\n",
    )
    spec = RunSpec.parse({"scene": "a.tif", "cluster": str(file)})
    assert spec.remote == ClusterSpec.model_validate(
        {"class": "dask_jobqueue.SLURMCluster", "arguments": {"queue": "gpu", "cores": 2}, "adapt": {"maximum": 9},
         "wait": 3600}
    )  # fmt: skip
    assert spec.model_copy(update={"workers": 5}).remote.workers == 5
    assert "cluster" not in spec.model_dump()  # it may hold secrets, and decides nothing
    assert spec.choices() == RunSpec(scene=Path("b.tif")).choices()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("class: SLURMCluster", "class: String should match"),
        ("class: a.B\nscheduler: tcp://a:1", "expected one of scheduler, scheduler_file and class"),
        ("scheduler: tcp://a:1\nworkers: 3", "arguments, workers and adapt are for a class"),
        ("class: a.B\nworkers: 3\nadapt: {maximum: 4}", "expected workers or adapt, not both"),
        ("class: a.B\nqueue: gpu", "queue: is not known; expected one of scheduler, "),
        ("class: [", "not YAML"),
        ("", "expected a table of scheduler, "),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path, text, told) -> None:
    with pytest.raises(UsageError) as caught:
        RunSpec.parse({"scene": "a.tif", "cluster": str(spec_file(tmp_path, text))})
    assert str(caught.value).startswith("--cluster: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_one_place(monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"^--scheduler, --scheduler-file, --cluster: give only one"):
        RunSpec.parse({"scene": "a.tif", "scheduler": "tcp://a:1", "scheduler_file": "f.json"})
    with pytest.raises(UsageError, match=r"^--workers: a scheduler that runs already"):
        RunSpec.parse({"scene": "a.tif", "scheduler": "tcp://a:1", "workers": 2})
    with pytest.raises(UsageError, match="not the address of a scheduler: expected tcp://"):
        _ = RunSpec.parse({"scene": "a.tif", "scheduler": "head:8786"}).remote


def test_the_environment_counts_where_nothing_is_said(monkeypatch) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    assert RunSpec(scene=Path("a.tif")).remote is None
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://head:8786")
    assert RunSpec(scene=Path("a.tif")).remote == ClusterSpec(scheduler="tcp://head:8786")
    assert RunSpec(scene=Path("a.tif"), workers=0).remote is None
    assert RunSpec(scene=Path("a.tif"), workers=2).remote is None
    assert RunSpec(scene=Path("a.tif"), scheduler="tls://b:1").remote == ClusterSpec(scheduler="tls://b:1")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("dask_gateway.GatewayCluster", 'pip install "tileseg[gateway]"'),
        ("nothing_like_it.Cluster", "install the package that brings nothing_like_it"),
        ("distributed.NoCluster", "distributed has no class NoCluster"),
        ("distributed.wait", "is not a class of Dask clusters"),
    ],
)
def test_classes_that_are_not_there(kind, told) -> None:
    with pytest.raises(UsageError) as caught:
        start.class_named(kind)
    assert told in str(caught.value)


def test_one_device_for_each_process() -> None:
    assert devices_of("auto", GPUS) == ("GPU-a", "GPU-b")
    assert devices_of("auto", ()) == ("-1",)
    assert devices_of("cpu", GPUS) == ("-1",)
    assert devices_of("3", GPUS) == ("GPU-b",)
    with pytest.raises(UsageError, match=r"--device 1: no such GPU; there are: 0 \(first\), 3 \(second\); or give cpu"):
        devices_of("1", GPUS)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def nothing_needed(folder: Path) -> Needs:
    return Needs((), folder, "model.keras", "", ENGINES["keras"].packages, folder, 0)


def test_no_scheduler(tmp_path) -> None:
    place = ClusterSpec(scheduler=f"tcp://127.0.0.1:{closed_port()}", wait=1)
    with (
        pytest.raises(TilesegError, match="no scheduler answers within 1 s") as caught,
        connect(place, nothing_needed(tmp_path), print),
    ):
        pass
    assert caught.value.exit_code == 1


def test_no_scheduler_file(tmp_path) -> None:
    place = ClusterSpec(scheduler_file=tmp_path / "s.json", wait=0.5)
    with (
        pytest.raises(TilesegError, match="dask scheduler --scheduler-file") as caught,
        connect(place, nothing_needed(tmp_path), print),
    ):
        pass
    assert caught.value.exit_code == 1


def test_certificates_that_are_missing_are_told_of_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connecting, "Workers", lambda *_, **__: pytest.fail("it was tried all the same"))
    place = ClusterSpec(scheduler="tls://127.0.0.1:1")
    told = (
        r"^tls://127.0.0.1:1: needs certificates; give --cluster a file with .*security: .*DASK_DISTRIBUTED__COMM__TLS"
    )
    with pytest.raises(UsageError, match=told), connect(place, nothing_needed(tmp_path), print):
        pass
    with pytest.raises(UsageError, match="needs certificates; give --tls CA CERT KEY"):
        security_for("tls://127.0.0.1:1", "worker", None)
    keys = {"ca_file": tmp_path / "ca.pem", "cert": tmp_path / "c.pem", "key": tmp_path / "k.pem"}
    place = ClusterSpec.model_validate({"scheduler": "tls://127.0.0.1:1", "security": keys})
    with (
        pytest.raises(UsageError, match=r"ca.pem: no such file; expected a PEM"),
        connect(place, nothing_needed(tmp_path), print),
    ):
        pass
    # Dask's own settings do as well.
    tls = {"ca-file": "ca", "client.cert": "c", "client.key": "k"}
    with dask.config.set({f"distributed.comm.tls.{name}": value for name, value in tls.items()}):
        assert security_for("tls://127.0.0.1:1", "client", None) is None
    assert security_for("tcp://127.0.0.1:1", "client", None) is None


def test_arguments_that_a_class_does_not_take(monkeypatch) -> None:
    """The reason is what it all began with; Dask's logs, which tell it several times, are not wanted."""

    def call(workers: int = 1) -> None:
        del workers

    class Picky:
        def __init__(self, silence_logs: int = logging.WARNING, **arguments: object) -> None:
            levels.append(silence_logs)
            try:
                call(**arguments)
            except TypeError as error:
                raise RuntimeError("Nanny failed to start.") from error

    levels: list[int] = []
    monkeypatch.setattr(start, "class_named", lambda _: Picky)
    place = ClusterSpec.model_validate({"class": "distributed.LocalCluster", "arguments": {"nonsense": 1}})
    told = "^distributed.LocalCluster: .*unexpected keyword argument 'nonsense'; see its `arguments`$"
    with pytest.raises(UsageError, match=told), start.started_cluster(place):
        pass
    own = place.model_copy(update={"arguments": {"nonsense": 1, "silence_logs": logging.INFO}})
    with pytest.raises(UsageError), start.started_cluster(own):
        pass
    assert levels == [logging.CRITICAL, logging.INFO]


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_dashboard_is_named_where_there_is_one() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pages = {status: f"http://127.0.0.1:{server.server_port}/{status}" for status in (200, 403, 404)}
        found = {status: dashboard(SimpleNamespace(dashboard_link=page)) for status, page in pages.items()}
        server.shutdown()
    assert found == {200: pages[200], 403: pages[403], 404: None}
    assert dashboard(SimpleNamespace(dashboard_link=f"http://127.0.0.1:{closed_port()}/status")) is None
    assert dashboard(SimpleNamespace(dashboard_link=None)) is None


def start_scheduler(file: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
    return subprocess.Popen([*command, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *more])


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory) -> Iterator[Path]:
    """The file of a scheduler that runs, without workers."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    with ended(start_scheduler(file)):
        wait_for(lambda: file.exists() and file.stat().st_size)
        yield file


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends a process with the ``with`` block."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


@pytest.mark.slow
def test_no_worker_comes(scheduler, tmp_path) -> None:
    address = json.loads(scheduler.read_text())["address"]
    place = ClusterSpec(scheduler_file=scheduler, wait=4)
    with pytest.raises(TilesegError) as caught, connect(place, nothing_needed(tmp_path), print):
        pass
    assert str(caught.value) == f"{address}: no worker has come within 4 s; start some: tileseg worker {address}"
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_are_replaced_and_a_scheduler_that_dies_ends_the_run_in_one_line(tmp_path) -> None:
    def endless(job: SimpleNamespace, index: int) -> None:  # travels by value, as it is no module's
        (job.folder / f"{index}.begun").touch()
        time.sleep(600)

    file, model = tmp_path / "s.json", resolve_model(EMBEDDED)
    scene = open_scene(write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3)), expected=3)
    needs = Needs((scene,), model, "model.keras", load_card(model).digest, ENGINES["keras"].packages, tmp_path, 0)
    job, told = SimpleNamespace(key="k", folder=tmp_path), []
    # Not one of tileseg's own workers: any that has it installed will do.
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "5"]
    with ExitStack() as processes:

        def start_worker() -> subprocess.Popen[bytes]:
            return processes.enter_context(ended(subprocess.Popen([*worker, "--no-nanny", "--no-dashboard"])))

        dying, first = processes.enter_context(ended(start_scheduler(file))), start_worker()
        place = ClusterSpec(scheduler_file=file, wait=200)
        with connect(place, needs, told.append) as client:
            assert client.slots == 2  # of its five threads
            assert told[-1].startswith("workers: 1 on ")

            def begun() -> list[Path]:
                return list(tmp_path.glob("*.begun"))

            def kill() -> None:
                # First the only worker: another one gets its blocks, whichever of those submitted they are.
                wait_for(lambda: len(begun()) == 2)
                for file in begun():
                    file.unlink()
                first.kill()
                start_worker()
                wait_for(lambda: len(begun()) == 2)
                dying.kill()

            threading.Thread(target=kill).start()
            feed = iter([(job, range(9))])
            with pytest.raises(
                TilesegError, match=r"^the connection to the scheduler was lost; finished blocks"
            ) as caught:
                schedule.run_feed(client, endless, feed, print, print, threading.Event())
        assert caught.value.exit_code == 1
        assert len(begun()) == 2


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a mosaic."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def options(folder: Path, name: str) -> list[str]:
    return ["scene.tif", "--model", "tiny", "--block", "128", "--window", "128", "--precision", "float32", "-q",
            "--out", name]  # fmt: skip


def tileseg(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tileseg", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A folder with a scene, a model, and what this machine alone makes of them."""
    folder = tmp_path_factory.mktemp("scene")
    save_tiny_onnx(folder / "tiny")
    write_scene(folder / "scene.tif", smooth_noise(200, 300, 3))
    with chdir(folder):
        run(RunSpec.parse({"scene": "scene.tif", "model": "tiny", "block": 128, "window": 128, "precision": "float32",
                           "workers": 0, "out": "alone"}))  # fmt: skip
    return folder


@pytest.mark.slow
def test_tileseg_workers_give_the_same_bytes(scheduler, scene) -> None:
    worker = [sys.executable, "-m", "tileseg", "worker", "--scheduler-file", str(scheduler), "--device", "cpu"]
    spec = scene / "patient.yaml"
    spec.write_text(f"scheduler_file: {scheduler}\nwait: 200\n")
    with ended(subprocess.Popen([*worker, "--threads", "1"], cwd="/")) as process:  # not in the driver's folder
        done = tileseg(scene, "run", *options(scene, "far"), "--cluster", str(spec), "--performance-report", "r.html")
        assert done.returncode == 0, done.stderr
        assert process.poll() is None  # it goes on for the next run
    assert tree(scene / "far/mosaic.zarr") == tree(scene / "alone/mosaic.zarr")
    for name in ("labels.tif", "polygons.geojson", "quicklook.png"):
        assert (scene / "far" / name).read_bytes() == (scene / "alone" / name).read_bytes()
    assert not list((scene / "far/.state").glob("shared-*"))
    assert "</html>" in (scene / "r.html").read_text()


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """One for all, signed by itself: certificate (and CA), and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tileseg")])
    today = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(*reversed(plain)))
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.slow
def test_over_an_encrypted_connection(scene, tmp_path) -> None:
    cert, key = make_certificates(tmp_path)
    file = tmp_path / "scheduler.json"
    keys = ["--tls-ca-file", str(cert), "--tls-cert", str(cert), "--tls-key", str(key)]
    with ended(start_scheduler(file, "--protocol", "tls", *keys)):
        wait_for(lambda: file.exists() and file.stat().st_size)
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        spec = spec_file(
            tmp_path, f"scheduler: {address}\nwait: 200\nsecurity: {{ca_file: {cert}, cert: {cert}, key: {key}}}\n"
        )
        worker = [sys.executable, "-m", "tileseg", "worker", address, "--device", "cpu", "--threads", "1"]
        with ended(subprocess.Popen([*worker, "--tls", str(cert), str(cert), str(key)])):
            done = tileseg(scene, "run", *options(scene, tmp_path.name), "--cluster", str(spec))
            assert done.returncode == 0, done.stderr
    assert tree(scene / tmp_path.name / "mosaic.zarr") == tree(scene / "alone/mosaic.zarr")
    assert key.read_text() not in (scene / tmp_path.name / "summary.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "class: distributed.LocalCluster\narguments: {n_workers: 1, threads_per_worker: 3, dashboard_address: ':0'}\n",
        "class: dask_jobqueue.local.LocalCluster\nworkers: 1\narguments: {cores: 1, memory: 4GiB, walltime: null}\n",
    ],
    ids=["LocalCluster", "jobqueue"],
)
def test_clusters_that_a_class_starts(scene, tmp_path, text) -> None:
    if "jobqueue" in text:
        pytest.importorskip("dask_jobqueue")
    file = spec_file(tmp_path, text + "wait: 200\n")
    done = tileseg(scene, "run", *options(scene, tmp_path.name), "--cluster", str(file))
    assert done.returncode == 0, done.stderr
    assert tree(scene / tmp_path.name / "mosaic.zarr") == tree(scene / "alone/mosaic.zarr")


def test_a_run_may_go_on_elsewhere(tmp_path) -> None:
    file = write_scene(tmp_path / "scene.tif", smooth_noise(200, 300, 3))
    here = prepare(RunSpec(scene=file, workers=1))
    there = prepare(RunSpec(scene=file, scheduler="tcp://a:1"))
    assert there.identity == here.identity


@pytest.mark.slow
def test_local_workers_share_out_the_devices() -> None:
    with local_cluster(3, 2, 1, devices=("GPU-a", "GPU-b")) as client:
        assert client.slots == 6
        client.wait_for_workers(3)
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert sorted(seen.values()) == ["GPU-a", "GPU-a", "GPU-b"]
