"""Runs whose outputs go to a bucket: every object equals the file that a run into a folder writes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from buckets import KEY, SECRET, forget_stores
from typer.testing import CliRunner
from unreliable import Unreliable

from tileseg import RunSpec, run
from tileseg.errors import InputError, Interrupted, LockedError, UsageError
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.run.report import Silent
from tileseg.storage.place import Url

BLOCKS = 12
NOT_COMPARED = ("summary.json", "scene.qgz", ".state")
"""The first tells the time, the second where the scene lies as seen from there; the last is not delivered."""


def spec(scene, model: Path, out, **options) -> RunSpec:
    return RunSpec.parse(
        {
            "scene": scene, "model": str(model), "out": out, "block": 128, "workers": 0, "precision": "float32",
            "formats": "geojson,gpkg,parquet,fgb", **options,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(scene_file, model, tmp_path_factory) -> dict[str, bytes]:
    """What a run into a folder writes."""
    folder = run(spec(scene_file, model, tmp_path_factory.mktemp("local") / "run")).folder
    return delivered({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})


def delivered(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if not name.startswith(NOT_COMPARED)}


def differing(bucket, prefix: str, files: dict[str, bytes]) -> list[str]:
    found = delivered(bucket.contents(prefix))
    return sorted({*found} ^ {*files}) + [name for name in files if name in found and found[name] != files[name]]


class Stopper(Silent):
    """Asks a run to stop after some blocks."""

    def __init__(self, after: int) -> None:
        self.stop, self.left = threading.Event(), after

    def block(self, record: BlockRecord, pixels: int) -> None:
        del record, pixels
        self.left -= 1
        if self.left <= 0:
            self.stop.set()


def test_every_object_equals_the_file(bucket, scene_file, model, files) -> None:
    """From any number of workers: those of none are below, where a run is started anew."""
    bucket.put("scene.tif", scene_file)
    report = run(spec(bucket.url("scene.tif"), model, bucket.url("runs/one"), workers=2))
    assert report.folder == Url.parse(bucket.url("runs/one"))
    assert report.computed == BLOCKS
    assert differing(bucket, "runs/one", files) == []
    summary = json.loads(bucket.get("runs/one/summary.json"))
    assert summary["report"]["outputs"]["labels"] == bucket.url("runs/one/labels.tif")
    assert summary["scene"]["path"] == bucket.url("scene.tif")
    written = bucket.contents("runs/one")
    assert not [name for name, data in written.items() if SECRET.encode() in data or KEY.encode() in data]
    assert not [name for name in written if "fragments" in name or "partial" in name]


def test_a_finished_run_is_not_done_again(bucket, scene_file, model, files, tmp_path) -> None:
    given = spec(scene_file, model, bucket.url("runs/one"), formats="geojson")
    run(given)
    before = {key: bucket.stat(key) for key in bucket.keys("runs/one")}
    again = run(given)
    assert again.finished_before
    assert again.outputs["quicklook"] == Url.parse(bucket.url("runs/one/quicklook.png"))
    assert {key: bucket.stat(key) for key in bucket.keys("runs/one")} == before
    with pytest.raises(UsageError, match=r"flips was none, is h.*--overwrite"):
        run(given.model_copy(update={"flips": "h"}))
    zarr_reads_the_mosaic_with_a_store_of_its_own(bucket, tmp_path / "mosaic")
    polygons_are_made_of_a_mosaic_in_a_bucket(bucket, files, tmp_path / "polygons")


def zarr_reads_the_mosaic_with_a_store_of_its_own(bucket, folder: Path) -> None:
    for name, data in bucket.contents("runs/one/mosaic.zarr").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    labels = np.asarray(zarr.open_group(folder, mode="r")["labels"])
    assert labels.shape == (301, 403)
    assert set(np.unique(labels)) <= {0, 1, 2}


def polygons_are_made_of_a_mosaic_in_a_bucket(bucket, files, folder: Path) -> None:
    from tileseg.cli.main import app

    called = CliRunner().invoke(
        app, ["vectorize", bucket.url("runs/one"), "--out", str(folder), "--block", "128", "-q"]
    )
    assert called.exit_code == 0, called.output
    found, expected = (
        json.loads(text)["features"] for text in ((folder / "polygons.geojson").read_bytes(), files["polygons.geojson"])
    )
    assert [feature["geometry"] for feature in found] == [feature["geometry"] for feature in expected]


def test_overwrite_starts_anew_and_spares_what_is_not_ours(bucket, scene_file, model, files) -> None:
    run(spec(scene_file, model, bucket.url("runs/one"), flips="h", connectivity=8))
    bucket.put("runs/one/notes.txt", b"mine")
    bucket.put("runs/one-more/labels.tif", b"another's")
    assert run(spec(scene_file, model, bucket.url("runs/one"), overwrite=True)).computed == BLOCKS
    assert differing(bucket, "runs/one/", files) == ["notes.txt"]
    assert bucket.get("runs/one-more/labels.tif") == b"another's"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_goes_on(bucket, scene_file, model, files, workers) -> None:
    given = spec(scene_file, model, bucket.url("runs/one"), workers=workers)
    first = Stopper(after=3)
    with pytest.raises(Interrupted, match="are done and kept"):
        run(given, first, first.stop)
    done = {key: bucket.stat(key) for key in bucket.keys("runs/one/.state/done")}
    assert 3 <= len(done) < BLOCKS
    assert run(given).computed == BLOCKS - len(done)
    assert {key: bucket.stat(key) for key in done} == done
    assert differing(bucket, "runs/one", files) == []


def test_a_place_in_use_is_refused(bucket, scene_file, model) -> None:
    state = Url.parse(bucket.url("runs/one/.state"))
    with Ledger(state).lock(), pytest.raises(LockedError, match=rf"process {os.getpid()} on .* --out"):
        run(spec(scene_file, model, bucket.url("runs/one")))


@pytest.mark.parametrize(
    ("out", "error", "told"),
    [
        ("s3://no-such-bucket/run", InputError, "cannot be written: no such object or bucket; choose another --out"),
        ("https://host/run", UsageError, "web servers are only read"),
        ("s3://{bucket}", UsageError, "expected a place in the bucket"),
    ],
)
def test_places_that_cannot_be_written(bucket, scene_file, model, out, error, told) -> None:
    with pytest.raises(error, match=told) as raised:
        run(spec(scene_file, model, out.format(bucket=bucket.name)))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_server_that_fails_and_stalls_now_and_then(bucket, scene_file, model, files, monkeypatch) -> None:
    bucket.put("scene.tif", scene_file)
    monkeypatch.setenv("TILESEG_HTTP_TIMEOUT", "3")
    with Unreliable(bucket.port, share=0.06, silence=4, seed=2) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        forget_stores()
        given = spec(bucket.url("scene.tif"), model, bucket.url("runs/one"), workers=2)
        assert run(given).computed == BLOCKS
        assert {"500", "cut", "silence"} <= set(server.spoilt)
    assert differing(bucket, "runs/one", files) == []


@pytest.mark.slow
def test_a_killed_driver_s_run_goes_on_at_once(bucket, scene_file, model, files) -> None:
    """Nobody has to wait for its lease: it was a process of this machine."""
    bucket.put("scene.tif", scene_file)
    command = [
        sys.executable, "-m", "tileseg", "run", bucket.url("scene.tif"), "--out", bucket.url("runs/one"),
        "--model", str(model), "--block", "128", "--workers", "1", "--precision", "float32",
        "--format", "geojson,parquet,fgb", "--quiet",
    ]  # fmt: skip
    with Unreliable(bucket.port) as server:
        slowed = {**os.environ, "AWS_ENDPOINT_URL": server.address}
        first = subprocess.Popen(command, env=slowed)
        while len(bucket.keys("runs/one/.state/done")) < 2:
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
    # The proxy has gone too, so that blocks in flight come to nothing.
    time.sleep(1)
    done = {key: bucket.stat(key) for key in bucket.keys("runs/one/.state/done")}
    assert 2 <= len(done) < BLOCKS
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {key: bucket.stat(key) for key in done} == done
    # Another process may have loaded another SQLite, which lays out GeoPackages in its own way.
    expected = {name: data for name, data in files.items() if not name.endswith(".gpkg")}
    assert differing(bucket, "runs/one", expected) == []
