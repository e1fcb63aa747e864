"""Whatever scenes are called: each gets a folder of its own, or a line that says why not, and the others are done."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Never

import pytest
from fakes import smooth_noise, write_scene
from typer.testing import CliRunner

from tileseg.batch.archive import run_batch
from tileseg.batch.entry import Entry
from tileseg.batch.report import SceneResult
from tileseg.batch.results import Results
from tileseg.batch.sources import read_sources
from tileseg.batch.spec import BatchSpec
from tileseg.cli.batch_progress import BatchProgress
from tileseg.cli.main import app

WEIRD = (
    "-bang!\ttab\nline #%41?*[1] .tif",
    "emoji\N{GRINNING FACE}.tif",
    "x" * 251 + ".tif",
)
NOT_UTF8 = os.fsdecode(b"bad\xff.tif")

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")


@only_linux
def test_a_batch_of_weird_names_does_all_that_can_be_done(tmp_path, model) -> None:
    scenes = tmp_path / "in"
    scenes.mkdir()
    for i, name in enumerate((*WEIRD, NOT_UTF8)):
        write_scene(tmp_path / "plain.tif", smooth_noise(40, 56, 3, seed=i))
        (tmp_path / "plain.tif").rename(scenes / name)
    options = {"block": 64, "workers": 0, "precision": "float32", "model": str(model)}
    report = run_batch(BatchSpec(read_sources([scenes]), tmp_path / "out", options, retries=0))
    found = {result.scene: result for result in report.results}
    assert [result.scene for result in report.results if result.status != "done"] == [f"{scenes}/bad\\xff.tif"]
    bad = found[f"{scenes}/bad\\xff.tif"]
    assert bad.status == "unusable"
    assert "is not UTF-8; rename it" in bad.message
    listed = json.loads((report.folder / "batch.json").read_text(encoding="utf-8"))["scenes"]
    with (report.folder / "batch.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["scene"] for row in rows} == {scene["scene"] for scene in listed} == set(found)
    done = sorted(found[str(scenes / name)].folder for name in WEIRD)
    assert len(set(done)) == len(WEIRD)
    assert all((report.folder / folder / "labels.tif").is_file() for folder in done)


@pytest.mark.parametrize("letter", ["x", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_long_stem_is_cut_to_what_disks_take(letter) -> None:
    long = letter * (250 // len(letter.encode()))
    plain, own = Entry(f"in/{long}.tif", "").names
    other = Entry(f"in/{long}a.tif", "").names[0]
    assert max(len(name.encode()) for name in (plain, own, other)) <= 255
    assert len({plain, own, other}) == 3  # what is cut off still tells them apart
    assert plain.startswith(long[:40])


def test_a_stem_for_which_there_is_room_is_kept() -> None:
    assert Entry(f"in/{'x' * 238}.tif", "").names[0] == f"{'x' * 238}.tileseg"


@pytest.mark.parametrize(
    ("one", "two"), [("Case.tif", "case.tif"), ("\u00e9.tif", "e\u0301.tif"), ("STRASSE.tif", "stra\u00dfe.tif")]
)
def test_stems_that_are_one_on_some_disks_get_a_digest_each(tmp_path, one, two) -> None:
    for name in (one, two, "other.tif"):
        (tmp_path / name).touch()
    folders = {Path(entry.scene).name: entry.folder for entry in read_sources([tmp_path])}
    assert folders.pop("other.tif") == "other.tileseg"
    assert len(set(folders.values())) == len(list(tmp_path.iterdir())) - 1
    assert all(f"{Path(name).stem}-" in folder for name, folder in folders.items())


def test_a_scene_is_told_of_in_one_line(capsys) -> None:
    with BatchProgress(quiet=False, verbose=False) as lines:
        lines.start(1)
        lines.notice("in/a\nb.tif: what there is to know")
        lines.scene(SceneResult("in/a\nb\t.tif", "a.tileseg", "unusable", 42, "in/a\nb\t.tif: no raster"))
    assert capsys.readouterr().err.splitlines() == [
        r"note: in/a\nb.tif: what there is to know",
        r"[1/1] in/a\nb\t.tif: unusable: no raster",
    ]


@only_linux
def test_a_dry_run_lists_names_that_are_no_text(tmp_path) -> None:
    (tmp_path / NOT_UTF8).touch()
    (tmp_path / "new\nline.tif").touch()
    listed = CliRunner().invoke(app, ["batch", str(tmp_path), "--out", "res", "--dry-run"])
    assert listed.exit_code == 0, listed.output
    first, second = listed.stdout.splitlines()
    assert (first.partition(" -> ")[0], second.partition(" -> ")[0]) == (
        f"{tmp_path}/bad\\xff.tif",
        f"{tmp_path}/new\\nline.tif",
    )


def test_counting_failures_does_not_go_through_all_scenes(tmp_path) -> None:
    """With ten thousand scenes, every result looked at all others: minutes of nothing else."""

    class Counted(dict[str, SceneResult]):
        def values(self) -> Never:
            raise AssertionError("all results were gone through")

    class Peak:
        peak = 0

    class Stop:
        def is_set(self) -> bool:
            return stopped != []

        def set(self) -> None:
            stopped.append(True)

    stopped: list[bool] = []
    entries = tuple(Entry(f"{i}.tif", f"{i}.tileseg") for i in range(4))
    spec, lines = BatchSpec(entries, tmp_path, max_failures=2), BatchProgress(quiet=True, verbose=False)
    results = Results(spec, lines, Stop(), Peak())
    results._results = Counted()
    statuses = ("failed", "unusable", "failed", "done")
    for entry, status in zip(entries, statuses, strict=True):
        results.record(entry, SceneResult(entry.scene, entry.folder, status))
    assert stopped == [True]  # after the third
    for entry in entries:
        results.record(entry, SceneResult(entry.scene, entry.folder, "done"))
    assert results._bad == 0
