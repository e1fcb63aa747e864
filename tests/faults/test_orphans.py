"""Workers that outlive their run, and polygons of blocks that are lost: neither spoils a result in silence."""

from pathlib import Path

import pytest
from fakes import save_tiny_onnx, smooth_noise, write_scene
from faults.bed import digest, records

from tileseg.errors import TilesegError
from tileseg.run.block import segment_block
from tileseg.run.compute import make_job
from tileseg.run.folder import begin, hold
from tileseg.run.ledger import BlockRecord, Superseded
from tileseg.run.prepare import prepare
from tileseg.run.report import Silent
from tileseg.run.scene import run
from tileseg.spec import RunSpec


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bed")
    save_tiny_onnx(folder / "tiny")
    write_scene(folder / "scene.tif", smooth_noise(300, 500, 3))
    run(spec(folder, "undisturbed"))
    return folder


def spec(folder: Path, out: str, **more: object) -> RunSpec:
    return RunSpec.parse(
        {"scene": folder / "scene.tif", "model": str(folder / "tiny"), "out": folder / out, "block": 128, "workers": 0,
         "precision": "float32", "formats": "geojson,gpkg", **more}
    )  # fmt: skip


def test_a_worker_of_an_earlier_run_writes_nothing_into_a_later_one(bed) -> None:
    earlier = prepare(spec(bed, "orphan", keep="probabilities"))
    with hold(earlier, lambda: None) as ledger:
        orphan = make_job(begin(earlier, ledger))
        segment_block(orphan, 0)
    later = prepare(spec(bed, "orphan", overwrite=True))
    with hold(later, lambda: None) as ledger:
        begun = begin(later, ledger)
        before = sorted((bed / "orphan").rglob("*"))
        with pytest.raises(Superseded, match="orphan: was begun anew by another process"):
            segment_block(orphan, 1)
        with pytest.raises(Superseded):
            orphan.ledger.record_done(BlockRecord(1, 1))
        assert sorted((bed / "orphan").rglob("*")) == before
        segment_block(make_job(begun), 1)
    again = prepare(spec(bed, "orphan"))
    with hold(again, lambda: None) as ledger:
        assert begin(again, ledger).ledger.begun == begun.ledger.begun  # going on is no new beginning
    run(spec(bed, "orphan"))
    assert digest(bed / "orphan") == digest(bed / "undisturbed")


class StopsAfter(Silent):
    """Fails after some blocks."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def block(self, record: BlockRecord, pixels: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_polygons_of_blocks_that_are_gone_are_made_again_from_the_mosaic(bed) -> None:
    out = bed / "gone"
    with pytest.raises(KeyboardInterrupt):
        run(spec(bed, out.name), StopsAfter(7))
    before = records(out)
    (out / ".state" / "fragments" / "000000" / "000000003.npz").unlink()
    report = run(spec(bed, out.name))
    assert report.computed == report.blocks - len(before)
    assert {i: facts for i, facts in records(out).items() if i in before} == before
    assert digest(out) == digest(bed / "undisturbed")


def test_blocks_whose_polygons_are_gone_are_computed_again_where_labels_alone_are_kept(bed) -> None:
    """Labels alone have no probabilities to give to polygons."""
    whole = run(spec(bed, "labels", keep="labels"))
    with pytest.raises(KeyboardInterrupt):
        run(spec(bed, "labels-gone", keep="labels"), StopsAfter(7))
    before = records(bed / "labels-gone")
    (bed / "labels-gone" / ".state" / "fragments" / "000000" / "000000003.npz").unlink()
    report = run(spec(bed, "labels-gone", keep="labels"))
    assert report.computed == report.blocks - len(before) + 1
    assert digest(bed / "labels-gone") == digest(whole.folder)


def test_polygons_that_vanish_at_the_end_are_an_error(bed, monkeypatch) -> None:
    """As when another machine took the folder over and finished it, while this process stood still."""
    out = bed / "vanished"

    class Vanish(Silent):
        def stage(self, name: str) -> None:
            (out / ".state" / "fragments" / "000000" / "000000003.npz").unlink()

    with pytest.raises(TilesegError, match=r"000000003\.npz"):
        run(spec(bed, out.name), Vanish())
    assert not (out / "polygons.geojson").exists()
    assert run(spec(bed, out.name)).computed == 0  # made again from the mosaic
    assert digest(out) == digest(bed / "undisturbed")
