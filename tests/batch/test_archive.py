"""Batches with a small network: the bytes of separate runs, nothing done twice, one bad scene stops nobody."""

import csv
import hashlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.batch import preparer as preparer_module
from tileseg.batch.archive import run_batch
from tileseg.batch.listener import SilentBatch
from tileseg.batch.report import BatchReport, SceneResult
from tileseg.batch.sources import read_sources
from tileseg.batch.spec import BatchSpec
from tileseg.cluster.failure import TRIES
from tileseg.errors import UsageError
from tileseg.run import block as segment
from tileseg.run.block import Job
from tileseg.run.ledger import BlockRecord, Ledger

SIZES = [(90, 140), (150, 70), (90, 140), (64, 200)]
OPTIONS = {"block": 64, "workers": 0, "precision": "float32"}

TOLD = ("summary.json", "scene.qgz")
"""What says when and from where: not the same in another folder."""


def archive(folder: Path, sizes=SIZES) -> Path:
    folder.mkdir(parents=True)
    for i, (height, width) in enumerate(sizes):
        write_scene(folder / f"scene{i}.tif", smooth_noise(height, width, 3, seed=i))
    return folder


def spec(scenes: Path, out: Path, model: Path, **options) -> BatchSpec:
    return BatchSpec(read_sources([scenes]), out, {**OPTIONS, "model": str(model), **options}, retries=0)


def statuses(report: BatchReport) -> list[str]:
    return [result.status for result in report.results]


def delivered(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and ".state" not in p.parts and p.name not in TOLD]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Notes(SilentBatch):
    """Keeps what a batch tells."""

    def __init__(self) -> None:
        self.blocks: list[tuple[str, int]] = []
        self.results: list[SceneResult] = []

    def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
        self.blocks.append((scene, record.index))

    def scene(self, result: SceneResult) -> None:
        self.results.append(result)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BatchReport]:
    folder = tmp_path_factory.mktemp("whole")
    scenes = archive(folder / "scenes")
    return scenes, run_batch(spec(scenes, folder / "out", model))


def test_the_bytes_of_separate_runs(whole, model, tmp_path) -> None:
    scenes, report = whole
    assert statuses(report) == ["done"] * 4
    assert report.exit_code == 0
    for i in range(4):
        one = {"model": str(model), "scene": scenes / f"scene{i}.tif", "out": tmp_path / str(i)}
        alone = run(RunSpec.parse({**OPTIONS, **one}))
        assert delivered(alone.folder) == delivered(report.folder / f"scene{i}.tileseg")


def test_the_lists_say_the_same(whole) -> None:
    _, report = whole
    values = json.loads((report.folder / "batch.json").read_text())
    with (report.folder / "batch.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert values["counts"]["done"] == 4
    assert [row["scene"] for row in rows] == [scene["scene"] for scene in values["scenes"]]
    assert [int(row["polygons"]) for row in rows] == [result.polygons for result in report.results]
    assert [int(row["blocks"]) for row in rows] == [6, 6, 6, 4]


def test_only_what_is_new_or_changed_is_done_again(model, tmp_path) -> None:
    scenes = archive(tmp_path / "scenes", SIZES[:3])
    run_batch(spec(scenes, tmp_path / "out", model))
    write_scene(scenes / "scene1.tif", smooth_noise(70, 130, 3, seed=8))
    write_scene(scenes / "scene9.tif", smooth_noise(70, 90, 3, seed=9))
    notes = Notes()
    report = run_batch(spec(scenes, tmp_path / "out", model), notes)
    assert statuses(report) == ["skipped", "done", "skipped", "done"]
    assert {Path(scene).name for scene, _ in notes.blocks} == {"scene1.tif", "scene9.tif"}


def test_a_scene_whose_outputs_were_removed_is_not_skipped(model, tmp_path) -> None:
    scenes = archive(tmp_path / "scenes", SIZES[:3])
    out = run_batch(spec(scenes, tmp_path / "out", model)).folder
    before = delivered(out)
    (out / "scene0.tileseg" / "labels.tif").unlink()
    shutil.rmtree(out / "scene1.tileseg" / "mosaic.zarr")
    notes = Notes()
    report = run_batch(spec(scenes, out, model), notes)
    assert statuses(report) == ["done", "unusable", "skipped"]
    assert "mosaic.zarr is not there any more" in report.results[1].message
    assert notes.blocks == []  # that of the first was made from the mosaic
    assert statuses(run_batch(spec(scenes, out, model, overwrite=True))) == ["skipped", "done", "skipped"]
    after = delivered(out)
    assert {n: d for n, d in after.items() if "tileseg" in n} == {n: d for n, d in before.items() if "tileseg" in n}


def batch_of(sources: list[Path], out: Path, model: Path, **options) -> BatchReport:
    return run_batch(BatchSpec(read_sources(sources), out, {**OPTIONS, "model": str(model), **options}, retries=0))


def outcomes(report: BatchReport) -> dict[str, tuple[str, str]]:
    """Status and folder, by the folder that a scene lies in."""
    return {Path(result.scene).parent.name: (result.status, result.folder) for result in report.results}


def equal_stems(root: Path, *folders: str) -> list[Path]:
    for seed, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_scene(root / folder / "one.tif", smooth_noise(70, 90 + 8 * seed, 3, seed=seed))
    return [root / folder for folder in folders]


def test_no_scene_takes_the_folder_of_another(model, tmp_path) -> None:
    first, second = equal_stems(tmp_path, "m", "c")
    out = tmp_path / "out"
    assert outcomes(batch_of([first], out, model)) == {"m": ("done", "one.tileseg")}
    kept = delivered(out / "one.tileseg")
    ((status, folder),) = outcomes(batch_of([second], out, model)).values()
    assert status == "done"
    assert folder.startswith("one-")
    assert delivered(out / "one.tileseg") == kept
    # Each by itself, or both in any order: what is done stays where it is.
    assert outcomes(batch_of([first], out, model)) == {"m": ("skipped", "one.tileseg")}
    assert outcomes(batch_of([second], out, model, overwrite=True)) == {"c": ("skipped", folder)}
    for sources in ([first, second], [second, first]):
        assert outcomes(batch_of(sources, out, model)) == {"m": ("skipped", "one.tileseg"), "c": ("skipped", folder)}
    # A scene that changes keeps its folder.
    write_scene(first / "one.tif", smooth_noise(60, 130, 3, seed=7))
    assert outcomes(batch_of([second, first], out, model))["m"] == ("done", "one.tileseg")
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted([folder, "one.tileseg"])


def test_a_scene_that_comes_later_moves_nobody(model, tmp_path) -> None:
    equal_stems(tmp_path / "arc", "m")
    batch_of([tmp_path / "arc"], tmp_path / "out", model)
    equal_stems(tmp_path / "arc", "m2", "c")
    found = outcomes(batch_of([tmp_path / "arc"], tmp_path / "out", model))
    assert found["m"] == ("skipped", "one.tileseg")
    assert {found[name][0] for name in ("c", "m2")} == {"done"}
    assert len({folder for _, folder in found.values()}) == 3


def test_one_scene_with_several_options_has_several_folders(model, tmp_path) -> None:
    equal_stems(tmp_path, "m")
    table = tmp_path / "t.csv"
    table.write_text("scene,flips\nm/one.tif,h\n")
    (alone,) = batch_of([table], tmp_path / "out", model).results
    table.write_text("scene,flips\nm/one.tif,none\nm/one.tif,h\n")
    plain, flipped = batch_of([table], tmp_path / "out", model).results
    assert (plain.status, flipped.status) == ("done", "skipped")
    assert plain.folder != flipped.folder == alone.folder == "one.tileseg"


def test_an_archive_that_was_moved_is_not_done_again(model, tmp_path) -> None:
    equal_stems(tmp_path / "old", "m")
    batch_of([tmp_path / "old"], tmp_path / "out", model)
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "out").rename(tmp_path / "out2")
    assert outcomes(batch_of([tmp_path / "new"], tmp_path / "out2", model)) == {"m": ("skipped", "one.tileseg")}
    noted = json.loads((tmp_path / "out2" / "one.tileseg" / ".state" / "source.json").read_text())
    assert noted["place"] == str(tmp_path / "new" / "m" / "one.tif")
    # Another scene, where the one that was done is gone: that one's results are all that is left of it.
    (tmp_path / "new").rename(tmp_path / "attic")
    kept = delivered(tmp_path / "out2" / "one.tileseg")
    ((status, folder),) = outcomes(
        batch_of(equal_stems(tmp_path / "next", "x", "m")[1:], tmp_path / "out2", model)
    ).values()
    assert (status, folder != "one.tileseg") == ("done", True)
    assert delivered(tmp_path / "out2" / "one.tileseg") == kept


def test_folders_of_single_runs_and_of_earlier_versions_belong_to_their_scenes(model, tmp_path, monkeypatch) -> None:
    first, second = equal_stems(tmp_path, "m", "c")
    monkeypatch.chdir(tmp_path)
    folder = run(RunSpec.parse({**OPTIONS, "model": str(model), "scene": "m/one.tif", "out": "out/one.tileseg"})).folder
    assert outcomes(batch_of([second], tmp_path / "out", model))["c"][1] != "one.tileseg"
    (folder / ".state" / "source.json").write_text(json.dumps({"scene": "m/one.tif", "datetime": None}))
    found = outcomes(batch_of([first, second], tmp_path / "out", model))
    assert found["m"] == ("skipped", "one.tileseg")
    assert found["c"][0] == "skipped"


def test_a_folder_that_another_batch_took_meanwhile_is_left_to_it(model, tmp_path, monkeypatch) -> None:
    """Two that begin at once both find the folder free."""
    first, second = equal_stems(tmp_path, "m", "c")
    real, beaten = preparer_module.hold, []

    @contextmanager
    def late(prepared, lost) -> Iterator[Ledger]:
        if not beaten:
            beaten.append(prepared.folder.name)
            monkeypatch.setattr(preparer_module, "hold", real)
            batch_of([first], tmp_path / "out", model)
        with real(prepared, lost) as ledger:
            yield ledger

    monkeypatch.setattr(preparer_module, "hold", late)
    ((status, folder),) = outcomes(batch_of([second], tmp_path / "out", model)).values()
    assert beaten == ["one.tileseg"]
    assert (status, folder != "one.tileseg") == ("done", True)
    assert outcomes(batch_of([first], tmp_path / "out", model)) == {"m": ("skipped", "one.tileseg")}


def test_what_lies_where_a_folder_should_be_is_told_of(model, tmp_path) -> None:
    (scenes,) = equal_stems(tmp_path, "m")
    state = tmp_path / "out" / "one.tileseg" / ".state"
    (state / "source.json").mkdir(parents=True)
    (told,) = batch_of([scenes], tmp_path / "out", model).results
    assert (told.status, told.code) == ("unusable", 42)
    assert "source.json: cannot be read: Is a directory" in told.message
    (state / "source.json").rmdir()
    (state / "source.json").write_text("[]")  # damaged: as if there were none
    assert outcomes(batch_of([scenes], tmp_path / "out", model)) == {"m": ("done", "one.tileseg")}
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2" / "one.tileseg").touch()
    (told,) = batch_of([scenes], tmp_path / "out2", model).results
    assert (told.status, told.code) == ("unusable", 42)


def test_a_date_that_is_corrected_is_noted_without_doing_the_scene_again(model, tmp_path) -> None:
    equal_stems(tmp_path, "m")
    for day in ("2024-05-06", "2024-05-07"):
        (tmp_path / "t.csv").write_text(f"scene,datetime\nm/one.tif,{day}\n")
        report = batch_of([tmp_path / "t.csv"], tmp_path / "out", model)
    assert statuses(report) == ["skipped"]
    noted = json.loads((tmp_path / "out" / "one.tileseg" / ".state" / "source.json").read_text())
    assert noted["datetime"] == "2024-05-07"


def test_bad_scenes_are_listed_and_stop_nobody(model, tmp_path) -> None:
    scenes = archive(tmp_path / "scenes", SIZES[:2])
    (scenes / "empty.tif").touch()
    (scenes / "text.tif").write_text("not a raster")
    torn = write_scene(scenes / "torn.tif", smooth_noise(150, 200, 3))
    with torn.open("r+b") as file:
        file.seek(torn.stat().st_size - 3000)
        file.write(b"\0" * 3000)
    report = run_batch(spec(scenes, tmp_path / "out", model))
    found = {Path(result.scene).name: result for result in report.results}
    assert {name: result.status for name, result in found.items()} == {
        "scene0.tif": "done", "scene1.tif": "done", "empty.tif": "unusable", "text.tif": "unusable",
        "torn.tif": "unusable",
    }  # fmt: skip
    assert "0 bytes" in found["empty.tif"].message
    assert "rows" in found["torn.tif"].message
    assert report.exit_code == 42
    # The torn one is mended: only it is done, from where it was.
    write_scene(torn, smooth_noise(150, 200, 3))
    again = run_batch(spec(scenes, tmp_path / "out", model))
    assert {Path(r.scene).name for r in again.results if r.status == "done"} == {"torn.tif"}


def test_failures_that_pass_are_tried_again_at_the_end(model, tmp_path, monkeypatch) -> None:
    scenes = archive(tmp_path / "scenes", SIZES[:2])
    real, failed = segment.segment_block, []

    def unlucky(job, index) -> BlockRecord:
        if "scene0" in str(job.scene.path) and index == 1 and len(failed) < TRIES:
            failed.append(index)
            raise ConnectionResetError("the share went away")
        return real(job, index)

    monkeypatch.setattr("tileseg.batch.computer.segment_block", unlucky)
    notes = Notes()
    report = run_batch(replace(spec(scenes, tmp_path / "out", model), retries=1), notes)
    assert statuses(report) == ["done", "done"]
    assert [(Path(r.scene).name, r.status) for r in notes.results] == [
        ("scene0.tif", "failed"), ("scene1.tif", "done"), ("scene0.tif", "done"),
    ]  # fmt: skip
    assert notes.blocks.count((str(scenes / "scene0.tif"), 1)) == 1
    assert len(notes.blocks) == 12


def test_too_many_failures_stop_the_batch(model, tmp_path) -> None:
    scenes = archive(tmp_path / "scenes", [(64, 70)] * 3)
    for i in range(5):
        (scenes / f"bad{i}.tif").write_text("not a raster")
    report = run_batch(replace(spec(scenes, tmp_path / "out", model), max_failures=1))
    assert report.counts["pending"] >= 3
    assert report.exit_code == 1
    assert not report.interrupted


def test_an_interrupted_batch_goes_on(whole, model, tmp_path) -> None:
    scenes, undisturbed = whole
    stop = threading.Event()

    class Stopper(Notes):
        def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
            super().block(scene, record, pixels)
            if len(self.blocks) == 8:
                stop.set()

    first, second = Stopper(), Notes()
    stopped = run_batch(spec(scenes, tmp_path / "out", model), first, stop)
    assert statuses(stopped) == ["done", "pending", "pending", "pending"]
    assert stopped.exit_code == 130
    report = run_batch(spec(scenes, tmp_path / "out", model), second)
    assert statuses(report) == ["skipped", "done", "done", "done"]
    assert sorted(first.blocks + second.blocks) == sorted(set(first.blocks + second.blocks))
    for result in report.results:
        assert delivered(report.folder / result.folder) == delivered(undisturbed.folder / result.folder)


def test_two_batches_share_the_work(whole, model, tmp_path) -> None:
    scenes, _ = whole
    notes, reports = [Notes(), Notes()], {}

    def go(i: int) -> None:
        reports[i] = run_batch(spec(scenes, tmp_path / "out", model), notes[i])

    threads = [threading.Thread(target=go, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    blocks = notes[0].blocks + notes[1].blocks
    assert len(blocks) == len(set(blocks)) == 22
    done = [result.scene for report in reports.values() for result in report.results if result.status == "done"]
    assert len(done) == len(set(done)) == 4


def test_a_scene_that_somebody_else_works_on_is_left_to_them(whole, model, tmp_path, monkeypatch) -> None:
    scenes, _ = whole
    monkeypatch.setattr("tileseg.storage.lease.BEAT", 0.1)
    with Ledger(tmp_path / "out" / "scene2.tileseg" / ".state").lock():
        begun = time.monotonic()
        report = run_batch(spec(scenes, tmp_path / "out", model))
    assert statuses(report) == ["done", "done", "locked", "done"]
    assert report.exit_code == 1
    assert time.monotonic() - begun < 60


def test_what_somebody_held_who_died_meanwhile_is_taken_over(whole, model, tmp_path, monkeypatch) -> None:
    scenes, undisturbed = whole
    for name, seconds in (("BEAT", 0.1), ("EXPIRES", 2.0), ("_WATCH", 0.4)):
        monkeypatch.setattr(f"tileseg.storage.lease.{name}", seconds)
    first, second = (tmp_path / "out" / f"scene{i}.tileseg" / ".state" / "lease-000003" for i in (1, 2))
    for held in (first, second):
        held.parent.mkdir(parents=True)
        held.write_text(json.dumps({"process": 7, "host": "elsewhere", "boot": "another"}))
    seen, dead = threading.Event(), threading.Event()

    class Witness(Notes):
        def scene(self, result: SceneResult) -> None:
            super().scene(result)
            if result.status == "locked":
                seen.set()

    def live() -> None:
        while not seen.wait(0.05):
            os.utime(first)
            os.utime(second)
        # It was seen alive, and dies later; one of its scenes expires when the other one is being computed.
        for held, moments in ((first, 6), (second, 20)):
            for _ in range(moments):
                time.sleep(0.05)
                os.utime(held)
        dead.set()

    def slow(job: Job, index: int) -> BlockRecord:
        time.sleep(0.5 if "scene1" in str(job.scene.path) else 0)
        if seen.is_set():
            dead.wait(60)  # the round in which it was seen alive outlasts it
        return segment.segment_block(job, index)

    monkeypatch.setattr("tileseg.batch.computer.segment_block", slow)
    owner, notes = threading.Thread(target=live), Witness()
    owner.start()
    try:
        report = run_batch(spec(scenes, tmp_path / "out", model), notes)
    finally:
        seen.set()
        owner.join()
    assert next(result.status for result in notes.results if "scene1" in result.scene) == "locked"
    assert statuses(report) == ["done"] * 4
    for result in report.results:
        assert delivered(report.folder / result.folder) == delivered(undisturbed.folder / result.folder)


def test_other_options_are_refused_unless_told(whole, model, tmp_path) -> None:
    scenes = archive(tmp_path / "scenes", SIZES[:1])
    run_batch(spec(scenes, tmp_path / "out", model))
    refused = run_batch(spec(scenes, tmp_path / "out", model, flips="h"))
    assert statuses(refused) == ["unusable"]
    assert "flips was none, is h" in refused.results[0].message
    assert refused.exit_code == 2
    told = spec(scenes, tmp_path / "out", model, flips="h", overwrite=True)
    assert statuses(run_batch(told)) == ["done"]
    assert statuses(run_batch(told)) == ["skipped"]


def test_mistakes_in_options_show_before_anything_begins(whole, model, tmp_path) -> None:
    scenes, _ = whole
    with pytest.raises(UsageError, match="--flips"):
        run_batch(spec(scenes, tmp_path / "out", model, flips="sideways"))
    assert not (tmp_path / "out").exists()


def timed(job: Job, index: int) -> BlockRecord:
    """A block that takes a while, and notes from when to when (all processes of a machine share that clock)."""
    begun = time.monotonic()
    # While the last one is computed, a thread is free for the next scene's first.
    time.sleep(1.0 if index == job.plan.blocks - 1 else 0.1)
    record = segment.segment_block(job, index)
    with (job.ledger.root.parent.parent / "times").open("a") as file:
        file.write(f"{job.ledger.root.parent.name} {begun} {time.monotonic()}\n")
    return record


def test_workers_elsewhere_must_reach_every_storage_of_the_batch(model, tmp_path, monkeypatch) -> None:
    scenes = archive(tmp_path / "scenes", [(64, 70)] * 4)
    (scenes / "scene1.tif").write_text("not a raster")
    places = {"scene0": "here", "scene1": "a share", "scene2": "a share", "scene3": "a bucket"}
    monkeypatch.setattr("tileseg.batch.computer.storage", lambda scene: places[Path(scene).stem])
    asked = []

    def connected(prepared, blocks, listener, others) -> None:
        asked.extend(Path(scene.path).stem for scene in (prepared.scene, *others))
        raise UsageError("no worker reads all of them")

    monkeypatch.setattr("tileseg.batch.computer.connected", connected)
    elsewhere = {**OPTIONS, "workers": None, "model": str(model), "scheduler": "tcp://127.0.0.1:1"}
    with pytest.raises(UsageError, match="no worker reads"):
        run_batch(BatchSpec(read_sources([scenes]), tmp_path / "out", elsewhere))
    assert asked == ["scene0", "scene2", "scene3"]


@pytest.mark.slow
def test_on_a_cluster_scenes_overlap(whole, model, tmp_path, monkeypatch) -> None:
    scenes, undisturbed = whole
    monkeypatch.setattr("tileseg.batch.computer.segment_block", timed)
    report = run_batch(spec(scenes, tmp_path / "out", model, workers=1))
    assert statuses(report) == ["done"] * 4
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in (tmp_path / "out" / "times").read_text().splitlines():
        folder, begun, ended = line.split()
        spans.setdefault(folder, []).append((float(begun), float(ended)))
    order = [spans[result.folder] for result in report.results]
    assert [len(blocks) for blocks in order] == [6, 6, 6, 4]
    for scene, following in itertools.pairwise(order):
        # One after the other, but for the last block of the one and the first of the other.
        assert min(following)[0] < max(ended for _, ended in scene)
        assert sorted(scene)[-2] < min(following)
    for result in report.results:
        assert delivered(report.folder / result.folder) == delivered(undisturbed.folder / result.folder)
