"""Whole runs through the Python interface, with a small network: resume, refusal, and the same bytes on any workers."""

import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from fakes import save_tiny_onnx, smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.errors import BlocksFailed, InputError, Interrupted, LockedError, OutputsGone, UsageError
from tileseg.run import compute
from tileseg.run import scene as room
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.run.prepare import PreparedRun, prepare
from tileseg.run.report import RunReport, Silent, describe

HEIGHT, WIDTH = 301, 403


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(HEIGHT, WIDTH, 3))


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    return RunSpec.parse(
        {"scene": scene, "model": str(model), "out": out, "block": 128, "workers": 0, "precision": "float32", **options}
    )


def delivered(folder: Path) -> dict[str, str]:
    """Digest of every delivered file but those that tell the time."""
    files = [p for p in folder.rglob("*") if p.is_file() and ".state" not in p.parts and p.name != "summary.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def undisturbed(scene, model, tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return run(spec(scene, model, tmp_path_factory.mktemp("out") / "run"))


class Stopper(Silent):
    """Asks a run to stop after some blocks."""

    def __init__(self, after: int) -> None:
        self.stop, self.left, self.computed = threading.Event(), after, 0

    def block(self, record: BlockRecord, pixels: int) -> None:
        del record, pixels
        self.computed += 1
        self.left -= 1
        if self.left <= 0:
            self.stop.set()


def test_the_module_path_stands_still_while_workers_end(scene, model, tmp_path, monkeypatch) -> None:
    """A run finishes meanwhile, and imports what it needs; an import passes over entries when the path gets shorter."""
    with_workers, finishing = [], []
    connected, write_outputs = compute.connected, room.write_outputs

    @contextmanager
    def connecting(*given: Any) -> Iterator[Any]:
        with connected(*given) as client:
            with_workers.extend(sys.path)
            yield client

    def noting(*given: Any) -> RunReport:
        finishing.extend(sys.path)
        return write_outputs(*given)

    monkeypatch.setattr(compute, "connected", connecting)
    monkeypatch.setattr(room, "write_outputs", noting)
    before = list(sys.path)
    run(spec(scene, model, tmp_path / "run", workers=1))
    assert with_workers != before  # so there is something to guard against
    assert finishing == sys.path == before


def test_outputs_agree_with_each_other(undisturbed) -> None:
    folder = undisturbed.folder
    with rasterio.open(folder / "labels.tif") as file:
        labels, grid = file.read(1), file.transform
        assert file.nodata == 255
        assert file.crs.to_epsg() == 32637
    counts = {name: int((labels == i).sum()) for i, name in enumerate(["ground", "roof", "water"])}
    assert undisturbed.pixels == counts
    polygons = geopandas.read_file(folder / "polygons.geojson")
    assert polygons.crs.to_epsg() == 4326
    for name in ("roof", "water"):
        chosen = polygons[polygons.class_name == name]
        assert len(chosen) == undisturbed.polygons[name]
        assert chosen.pixels.sum() == counts[name]
        assert chosen.area_m2.sum() == pytest.approx(counts[name] * abs(grid.a * grid.e), rel=2e-3)
    assert "ground" not in set(polygons.class_name)
    assert list(polygons.id) == list(range(1, len(polygons) + 1))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["report"]["blocks"] == 12
    assert summary["plan"]["exact"] is True


def test_a_finished_run_is_not_done_again(scene, model, undisturbed) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.folder.rglob("*")}
    again = run(spec(scene, model, undisturbed.folder))
    assert again.finished_before
    assert again.computed == 0
    assert again.polygons == undisturbed.polygons
    assert {p: p.stat().st_mtime_ns for p in undisturbed.folder.rglob("*")} == before


@pytest.mark.parametrize("workers", [None, 2])
def test_workers_do_not_change_a_byte(scene, model, tmp_path, undisturbed, workers) -> None:
    report = run(spec(scene, model, tmp_path / "run", workers=workers))
    assert report.computed == 12
    assert delivered(report.folder) == delivered(undisturbed.folder)


@pytest.mark.parametrize("workers", [0, None, 2])
def test_an_interrupted_run_goes_on(scene, model, tmp_path, undisturbed, workers) -> None:
    first = Stopper(after=3)
    with pytest.raises(Interrupted, match="of 12 blocks are done and kept"):
        run(spec(scene, model, tmp_path / "run", workers=workers), first, first.stop)
    assert 3 <= first.computed < 12
    assert not (tmp_path / "run" / "summary.json").exists()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / ".state" / "done").rglob("*.json")}
    report = run(spec(scene, model, tmp_path / "run", workers=workers))
    assert report.computed == 12 - len(done)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert delivered(report.folder) == delivered(undisturbed.folder)


def test_sizes_chosen_once_are_kept(scene, model, tmp_path) -> None:
    first = Stopper(after=1)
    options = {"block": None, "window": 64}
    with pytest.raises(Interrupted):
        run(spec(scene, model, tmp_path / "run", **{**options, "block": 64}), first, first.stop)
    chosen = json.loads((tmp_path / "run" / ".state" / "run.json").read_text())["sizes"]
    # Less memory would choose other windows for a new run.
    report = run(spec(scene, model, tmp_path / "run", **{**options, "block": 64}, max_memory="64GiB"))
    assert json.loads((report.folder / "summary.json").read_text())["plan"]["core"] == chosen["tile"]


def test_other_options_are_refused_by_name(scene, model, tmp_path, undisturbed) -> None:
    with pytest.raises(UsageError, match=r"flips was none, is h.*--overwrite"):
        run(spec(scene, model, undisturbed.folder, flips="h"))
    save_tiny_onnx(tmp_path / "other", seed=4)
    with pytest.raises(UsageError, match="model was"):
        run(spec(scene, tmp_path / "other", undisturbed.folder))
    area = tmp_path / "area.gpkg"
    box = geopandas.GeoSeries.from_wkt(["POLYGON ((500010 3999900, 500050 3999900, 500050 3999990, 500010 3999900))"])
    box.set_crs(32637).to_file(area)
    with pytest.raises(UsageError, match=r"options \(it was made without --aoi\); choose"):
        run(spec(scene, model, undisturbed.folder, aoi=area))
    first = Stopper(after=1)
    with pytest.raises(Interrupted):
        run(spec(scene, model, tmp_path / "run", aoi=area), first, first.stop)
    box.translate(3).set_crs(32637).to_file(area)
    with pytest.raises(UsageError, match=r"\(the area of interest was another; connectivity was 4, is 8\)"):
        run(spec(scene, model, tmp_path / "run", aoi=area, connectivity=8))
    other = write_scene(tmp_path / "other.tif", smooth_noise(90, 140, 3))
    with pytest.raises(
        UsageError, match=rf"run: belongs to {re.escape(str(scene))} \(it was made with --aoi\); choose"
    ):
        run(spec(other, model, tmp_path / "run"))


def test_a_changed_scene_is_refused(model, tmp_path) -> None:
    path = write_scene(tmp_path / "scene.tif", smooth_noise(100, 140, 3))
    run(spec(path, model, tmp_path / "run"))
    write_scene(path, smooth_noise(100, 140, 3, seed=9))
    with pytest.raises(UsageError, match="run: made of the scene as it was before it changed; choose"):
        run(spec(path, model, tmp_path / "run"))


def test_overwrite_starts_anew_and_spares_other_files(scene, model, tmp_path) -> None:
    folder = tmp_path / "run"
    run(spec(scene, model, folder, formats="gpkg"))
    (folder / "notes.txt").write_text("mine")
    report = run(spec(scene, model, folder, flips="h", overwrite=True))
    assert report.computed == 12
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "polygons.gpkg").exists()


def test_a_folder_in_use_is_refused(scene, model, tmp_path) -> None:
    with Ledger(tmp_path / "run" / ".state").lock(), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        run(spec(scene, model, tmp_path / "run"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_block_is_named_and_the_others_are_kept(model, tmp_path, workers) -> None:
    path = write_scene(tmp_path / "scene.tif", smooth_noise(HEIGHT, WIDTH, 3))
    with path.open("r+b") as file:
        # GDAL writes tiles in order: the last ones lie at the file's end.
        file.seek(path.stat().st_size - 4000)
        file.write(b"\0" * 4000)
    with pytest.raises(BlocksFailed) as raised:
        run(spec(path, model, tmp_path / "run", workers=workers))
    assert raised.value.exit_code == 42
    assert re.search(r"\n  .*scene\.tif: cannot be read at rows", str(raised.value))
    done = Ledger(tmp_path / "run" / ".state").done()
    assert 0 in done
    assert 11 not in done
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_plan_needs_no_network(scene, model) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from tileseg import RunSpec\n"
        "from tileseg.run.prepare import prepare; from tileseg.run.report import describe\n"
        f"prepared = prepare(RunSpec.parse({{'scene': {str(scene)!r}, 'model': {str(model)!r}}}))\n"
        "print(describe(prepared)['blocks'], [m for m in ('tensorflow', 'keras', 'dask') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split(maxsplit=1) == ["1", "[]\n"]


def test_plan_facts(scene, model, tmp_path) -> None:
    prepared = prepare(spec(scene, model, tmp_path / "run", scales="1/2,1", flips="d4", block=128))
    assert isinstance(prepared, PreparedRun)
    facts = describe(prepared)
    assert facts["blocks"] == 12
    assert facts["views"] == 16
    assert facts["exact"]
    assert facts["memory_bytes"] > facts["memory_bytes_per_worker"] >= 0
    assert not (tmp_path / "run").exists()


def test_the_plan_is_for_what_the_area_touches(scene, model, tmp_path) -> None:
    whole = describe(prepare(spec(scene, model, tmp_path / "run")))
    inside = area(tmp_path / "area.geojson", (500_100, 4_000_000 - 60, 500_150, 4_000_000 - 10))
    part = describe(prepare(spec(scene, model, tmp_path / "run", aoi=inside)))
    assert (whole["blocks"], whole["blocks_in_area"]) == (12, 12)
    assert (part["blocks"], part["blocks_in_area"]) == (12, 2)
    assert part["windows"] == whole["windows"] // 6
    assert part["gflop"] == pytest.approx(whole["gflop"] / 6, abs=0.1)


def test_sizes_that_are_not_as_asked_for_are_told(scene, model, tmp_path) -> None:
    notices = prepare(spec(scene, model, tmp_path / "run", block=100, scales="3/5")).notices
    assert [n for n in notices if "blocks of 160 pixels instead of 100" in n]
    plenty = prepare(spec(scene, model, tmp_path / "run", block=None, window=384, max_memory="64GiB"))
    short = prepare(
        spec(scene, model, tmp_path / "run", block=None, window=384, max_memory=plenty.plan.memory.total - 1)
    )
    assert plenty.notices == ()
    assert [n for n in short.notices if "instead of 384x384 pixels, to stay under" in n]


@pytest.mark.parametrize("out", ["taken.txt", "taken.txt/run"])
def test_a_file_is_no_folder_to_write_into(scene, model, tmp_path, out) -> None:
    (tmp_path / "taken.txt").write_text("mine")
    with pytest.raises(InputError, match=r"taken\.txt.*: cannot be written: .*choose another --out"):
        run(spec(scene, model, tmp_path / out))
    assert (tmp_path / "taken.txt").read_text() == "mine"


def test_formats_are_the_same_in_any_order(scene, model, tmp_path) -> None:
    first = prepare(spec(scene, model, tmp_path / "run", formats="gpkg,geojson,fgb"))
    second = prepare(spec(scene, model, tmp_path / "run", formats="fgb,gpkg,geojson"))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != prepare(spec(scene, model, tmp_path / "run", formats="fgb,gpkg")).fingerprint


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"classes": "roofs"}, UsageError, "roofs"),
        ({"bands": "1,2,9"}, InputError, "9"),
        ({"bands": "1,2"}, (InputError, UsageError), "3"),
        ({"model": "/nowhere/model"}, InputError, "no such model"),
        ({"max_memory": "100MiB"}, UsageError, "--max-memory"),
        ({"min_area": "wide"}, UsageError, "--min-area"),
        ({"scene": "/nowhere/scene.tif"}, InputError, "/nowhere/scene.tif"),
        ({"aoi": "/nowhere/area.geojson"}, InputError, "area.geojson"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(scene, model, tmp_path, options, error, told) -> None:
    with pytest.raises(error, match=told) as raised:
        run(spec(**{"scene": scene, "model": model, "out": tmp_path / "run", **options}))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def area(path: Path, box: tuple[float, float, float, float]) -> Path:
    from shapely.geometry import box as rectangle

    geopandas.GeoDataFrame(geometry=[rectangle(*box)], crs=32637).to_crs(4326).to_file(path)
    return path


def test_an_area_of_interest_clips_everything(scene, model, tmp_path, undisturbed) -> None:
    # Pixels are half a metre: rows 20-119 and columns 200-299, in another CRS.
    inside = area(tmp_path / "area.geojson", (500_100, 4_000_000 - 60, 500_150, 4_000_000 - 10))
    report = run(spec(scene, model, tmp_path / "run", aoi=inside))
    assert report.empty == 10
    with rasterio.open(report.outputs["labels"]) as clipped, rasterio.open(undisturbed.outputs["labels"]) as whole:
        found, expected = clipped.read(1), whole.read(1)
    assert np.count_nonzero(found != 255) == pytest.approx(100 * 100, abs=200)
    np.testing.assert_array_equal(found[found != 255], expected[found != 255])
    assert (found[22:118, 202:298] != 255).all()


def test_an_area_elsewhere_is_refused_before_anything_is_written(scene, model, tmp_path) -> None:
    outside = area(tmp_path / "area.geojson", (510_000, 3_990_000, 510_100, 3_990_100))
    with pytest.raises(InputError, match=r"area\.geojson"):
        run(spec(scene, model, tmp_path / "run", aoi=outside))
    assert not (tmp_path / "run").exists()


def test_sixteen_bits_are_standardised_and_told(model, tmp_path) -> None:
    pixels = smooth_noise(90, 120, 3).astype(np.uint16) * 40 + 900
    path = write_scene(tmp_path / "scene.tif", pixels)
    report = run(spec(path, model, tmp_path / "run", block=None))
    assert any("pixels are uint16" in notice for notice in report.notices)
    assert sum(report.pixels.values()) == 90 * 120


def test_a_scene_without_crs_gives_pixel_coordinates(model, tmp_path) -> None:
    path = write_scene(tmp_path / "scene.tif", smooth_noise(90, 120, 3), crs=None)
    report = run(spec(path, model, tmp_path / "run", block=None, formats="geojson,gpkg"))
    assert any("polygons and areas are in pixels" in notice for notice in report.notices)
    bounds = geopandas.read_file(report.outputs["gpkg"], layer="polygons").total_bounds
    assert (np.abs(bounds) <= 120).all()
    moved = write_scene(tmp_path / "moved.tif", smooth_noise(90, 120, 3), crs=None)
    with rasterio.open(moved, "r+") as file:
        file.transform = rasterio.Affine(2, 0, 700, 0, -2, 900)
    notices = prepare(spec(moved, model, tmp_path / "moved", min_area="25", simplify="2px")).notices
    assert any("in the file's own coordinates, areas in pixels" in notice for notice in notices)
    assert [notice for notice in notices if "counts pixels" in notice] == [
        "--min-area 25 counts pixels: nothing says how large they are; --pixel-size METRES does"
    ]


@pytest.mark.parametrize("keep", ["probabilities", "labels"])
def test_keeping_less_gives_the_same_polygons(scene, model, tmp_path, undisturbed, keep) -> None:
    report = run(spec(scene, model, tmp_path / "run", keep=keep))
    wanted = ("polygons.geojson", "labels.tif")
    found, expected = delivered(report.folder), delivered(undisturbed.folder)
    assert {name: found[name] for name in wanted} == {name: expected[name] for name in wanted}


def test_pages_of_a_stack_are_scenes_of_their_own(model, tmp_path, monkeypatch) -> None:
    """Also where all pages have the size and the type of the first one, and GDAL would take the folder for a page."""
    monkeypatch.chdir(tmp_path)
    pages = [smooth_noise(40, 60, 3, seed=i) for i in range(2)]
    write_scene(Path("stack.tif"), pages[0], crs=None)
    with rasterio.open("stack.tif", "r") as file:
        profile = {**file.profile, "append_subdataset": True}
    with rasterio.open("stack.tif", "w", **profile) as file:
        file.write(np.moveaxis(pages[1], -1, 0))
    for number, page in enumerate(pages, 1):
        run(spec(Path(f"GTIFF_DIR:{number}:stack.tif"), model, None, formats="geojson,gpkg"))
        alone = run(spec(write_scene(Path("alone.tif"), page, crs=None), model, Path(f"alone{number}")))
        assert delivered(Path(f"stack-{number}.tileseg"))["labels.tif"] == delivered(alone.folder)["labels.tif"]
    with pytest.raises(UsageError, match=r"belongs to GTIFF_DIR:1:stack\.tif; choose"):
        run(spec(Path("GTIFF_DIR:2:stack.tif"), model, Path("stack-1.tileseg"), formats="geojson,gpkg"))
    odd = run(spec(Path("GTIFF_DIR:2:stack.tif"), model, Path("GTIFF_DIR:2:odd"), formats="geojson,gpkg"))
    assert all(Path(place).exists() for place in odd.outputs.values())


@pytest.mark.parametrize("keep", ["logits", "probabilities"])
def test_outputs_that_were_removed_are_made_again_from_the_mosaic(scene, model, tmp_path, keep) -> None:
    wish = spec(scene, model, tmp_path / "run", keep=keep, formats="geojson,parquet")
    folder = run(wish).folder
    before = delivered(folder)
    for name in ("labels.tif", "polygons.parquet", "quicklook.png"):
        (folder / name).unlink()
    listener = Stopper(after=99)
    again = run(wish, listener)
    assert delivered(folder) == before
    assert (again.finished_before, again.computed, listener.computed) == (False, 0, 0)
    assert not (folder / ".state" / "fragments").exists()
    assert run(wish).finished_before


def test_a_run_whose_mosaic_was_removed_is_not_finished(scene, model, tmp_path) -> None:
    wish = spec(scene, model, tmp_path / "run")
    shutil.rmtree(run(wish).folder / "mosaic.zarr")
    with pytest.raises(OutputsGone, match=r"run: was finished, but mosaic\.zarr is not there.*--overwrite"):
        run(wish)
    assert (tmp_path / "run" / "labels.tif").exists()
    run(wish.model_copy(update={"overwrite": True}))
    assert run(wish).finished_before


def test_scene_smaller_than_everything(model, tmp_path) -> None:
    path = write_scene(tmp_path / "scene.tif", smooth_noise(1, 3, 3))
    report = run(spec(path, model, tmp_path / "run", block=None))
    assert sum(report.pixels.values()) == 3
