"""A scene that changes while it is read: no block is made of other pixels, and nothing finished is lost."""

import os
import shutil
from pathlib import Path

import pytest
from fakes import save_tiny_onnx, smooth_noise, write_scene
from faults.bed import digest, records

from tileseg.errors import BlocksFailed
from tileseg.run.ledger import BlockRecord
from tileseg.run.report import Silent
from tileseg.run.scene import run
from tileseg.spec import RunSpec


class Meddler(Silent):
    """Does something to the scene once some blocks are finished."""

    def __init__(self, deed) -> None:
        self.deed, self.left = deed, 5

    def block(self, record: BlockRecord, pixels: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.deed()


def truncate(scene: Path) -> None:
    os.truncate(scene, scene.stat().st_size // 2)


def overwrite(scene: Path) -> None:
    """Other pixels in the same file, which stays open."""
    other = write_scene(scene.with_name("other.tif"), smooth_noise(300, 500, 3, seed=8))
    with scene.open("r+b") as file:
        file.write(other.read_bytes())


def replace(scene: Path) -> None:
    write_scene(scene.with_name("other.tif"), smooth_noise(300, 500, 3, seed=8)).replace(scene)


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bed")
    save_tiny_onnx(folder / "tiny")
    write_scene(folder / "scene.tif", smooth_noise(300, 500, 3))
    shutil.copy2(folder / "scene.tif", folder / "kept.tif")
    run(spec(folder, "undisturbed"))
    return folder


def spec(folder: Path, out: str) -> RunSpec:
    return RunSpec.parse(
        {"scene": folder / "scene.tif", "model": str(folder / "tiny"), "out": folder / out, "block": 128, "workers": 0,
         "precision": "float32", "formats": "geojson,gpkg"}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("deed", "told"),
    [(truncate, "has changed since"), (overwrite, "has changed since"), (replace, "has changed since"),
     (Path.unlink, "cannot be read any more: No such file")],
)  # fmt: skip
def test_a_scene_that_changes(bed, tally, deed, told) -> None:
    row = tally(f"the scene changes: {deed.__name__}", "after 5 of 12 blocks; then the old file is put back")
    row.times, out = 1, bed / deed.__name__
    with pytest.raises(BlocksFailed, match=told) as caught:
        run(spec(bed, out.name), Meddler(lambda: deed(bed / "scene.tif")))
    assert caught.value.exit_code == 42
    before = records(out)
    assert len(before) == 5
    row.told[f"42: {' '.join(str(caught.value).split())}"] += 1
    shutil.copy2(bed / "kept.tif", bed / "scene.tif")  # with its times
    report = run(spec(bed, out.name))
    assert report.computed == report.blocks - 5
    assert {i: facts for i, facts in records(out).items() if i in before} == before
    assert digest(out) == digest(bed / "undisturbed")
    row.check(0)
