"""What the viewer's server answers, and what it refuses."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from PIL import Image
from served import Served, serving

from tileseg.errors import InputError, UsageError
from tileseg.view.app import TYPES, page_file
from tileseg.view.serve import listening
from tileseg.view.tiles import SIZE, look
from tileseg.view.viewed import ViewedRun, look_into, runs_in
from tileseg.webmap import Placement


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[Served]:
    """``bare`` is run 0, ``placed`` run 1."""
    with serving(runs_in(runs)) as found:
        yield found


def picture(body: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))


def tile_at(run: ViewedRun, zoom: int, row: float, col: float) -> tuple[int, int]:
    """Column and line of the tile that shows a pixel."""
    x, y = run.placement.of_pixels(np.array([[col, row]]))[0] * 2**zoom
    return int(x), int(y)


def test_it_lists_the_runs_of_a_folder(served: Served) -> None:
    found = served.ask("/view.json").json
    assert [run["name"] for run in found["runs"]] == ["bare", "placed"]
    assert [run["on_globe"] for run in found["runs"]] == [False, True]
    facts = served.ask("/runs/1/facts.json").json
    assert facts["scene_problem"] is None
    assert facts["finished"]
    assert facts["measures"] == [f"probability of {c['name']}" for c in facts["classes"] if not c["background"]]


@pytest.mark.parametrize("name", ["placed", "bare"])
@pytest.mark.parametrize("finer", [0, 2])
def test_tiles_show_the_pixels_that_lie_there(runs: Path, served: Served, name: str, finer: int) -> None:
    """At the scene's own zoom and enlarged: against GDAL's pixels at the places that pyproj says."""
    number = ["bare", "placed"].index(name)
    run = look_into(runs / f"{name}.tileseg")
    zoom = run.placement.zoom(256) + finer
    col, line = tile_at(run, zoom, 150, 210)
    labels = picture(served.ask(f"/runs/{number}/labels/{zoom}/{col}/{line}").body)
    centres = (np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1) + 0.5) / SIZE + [col, line]
    x, y = np.floor(run.placement.pixels(centres.reshape(-1, 2) / 2**zoom)).astype(int).T
    with rasterio.open(runs / f"{name}.tileseg" / "labels.tif") as file:
        truth = file.read(1)
        palette = file.colormap(1)
    inside = (x >= 0) & (y >= 0) & (x < truth.shape[1]) & (y < truth.shape[0])
    assert inside.mean() > 0.2
    background = {i for i, info in enumerate(run.mosaic.classes) if info.background}
    expected = np.array(
        [(0, 0, 0, 0) if not there or truth[r, c] in background else palette[truth[r, c]]
         for r, c, there in zip(y, x, inside, strict=True)]
    )  # fmt: skip
    flat = labels.reshape(-1, 4)
    clear = expected[:, 3] == 0
    assert (flat[clear, 3] == 0).mean() > 0.999
    assert (flat[~clear] == expected[~clear]).all(axis=1).mean() > 0.999


def test_the_scene_is_drawn_where_it_lies(runs: Path, served: Served) -> None:
    run = look_into(runs / "bare.tileseg")
    zoom = run.placement.zoom(256)
    col, line = tile_at(run, zoom, 100, 100)
    drawn = picture(served.ask(f"/runs/0/scene/{zoom}/{col}/{line}").body).astype(int)
    seen = look(run.placement, zoom, col, line)
    assert seen is not None
    with rasterio.open(runs / "bare.tif") as file:
        truth = np.moveaxis(file.read(), 0, -1).astype(int)
    rows, cols = seen.rows + seen.window.row_off, seen.cols + seen.window.col_off
    off = np.abs(drawn[..., :3] - truth[rows, cols]).mean(axis=2)[seen.there]
    assert off.mean() < 12  # WebP of noise
    assert (drawn[..., 3][~seen.there] == 0).all()


@pytest.mark.parametrize("layer", ["scene", "labels", "nodata", "measure"])
def test_tiles_beside_the_scene_are_empty(served: Served, layer: str) -> None:
    assert served.ask(f"/runs/1/{layer}/5/0/0").status == 204


def test_a_threshold_gives_what_vectorize_gives(runs: Path, served: Served, in_process, tmp_path: Path) -> None:
    west, south, east, north = served.ask("/view.json").json["runs"][1]["bounds"]
    run = look_into(runs / "placed.tileseg")
    ids = [i for i, info in enumerate(run.mosaic.classes) if not info.background]
    name = run.mosaic.classes[ids[0]].name
    box = f"{west - 1},{south - 1},{east + 1},{north + 1}"
    found = served.ask(f"/runs/1/changed.json?box={box}&threshold={ids[0]}:0.55").json
    assert found["whole"]
    told = in_process(*found["command"][1:], "--out", tmp_path / "files")
    assert told.returncode == 0, told.stderr
    frame = geopandas.read_file(next((tmp_path / "files").glob("*.gpkg")), layer="polygons")
    assert found["counts"] == frame.groupby("class_name").size().to_dict()
    assert len(found["features"]) == len(frame) > 3
    assert f"--threshold {name}=0.55" in " ".join(found["command"])
    again = served.ask("/runs/1/written", {"threshold": f"{ids[0]}:0.55"}, X_Tileseg="view").json
    written = geopandas.read_file(again["files"][0], layer="polygons")
    assert written.drop(columns="geometry").equals(frame.drop(columns="geometry"))


@pytest.mark.parametrize("number", [0, 1])
def test_polygons_are_ready_with_numbers_and_doubts(runs: Path, served: Served, number: int) -> None:
    found = served.wait_for(f"/runs/{number}/polygons.json", "tiles")
    found = served.wait_for(f"/runs/{number}/polygons.json", "ready")
    folder = runs / ["bare.tileseg", "placed.tileseg"][number]
    frame = (
        geopandas.read_parquet(folder / "polygons.parquet")
        if number == 0
        else geopandas.read_file(folder / "polygons.gpkg", layer="polygons")
    )
    assert found["total"] == len(frame)
    for label, part in frame.groupby("class"):
        assert found["classes"][str(label)]["count"] == len(part)
        assert found["classes"][str(label)]["area"] == pytest.approx(part[f"area_{found['unit']}"].sum(), rel=1e-6)
    values = [entry["value"] for entry in found["uncertain"]]
    assert values == sorted(values)
    assert values[0] == frame["mean_probability"].min()
    run = look_into(folder)
    west, south, east, north = run.placement.degrees
    for entry in found["uncertain"]:
        w, s, e, n = entry["box"]
        assert west - 1e-6 <= w < e <= east + 1e-6
        assert south - 1e-6 <= s < n <= north + 1e-6
    part = served.ask(f"/runs/{number}/polygons.pmtiles", Range="bytes=0-6")
    assert (part.status, part.body) == (206, b"PMTiles")


def test_marks_are_kept_with_the_polygons_they_are_about(runs: Path, served: Served) -> None:
    for number, name in enumerate(("bare", "placed")):
        first, second = (e["id"] for e in served.wait_for(f"/runs/{number}/polygons.json", "ready")["uncertain"][:2])
        for polygon, verdict in ((first, "wrong"), (second, "again"), (first, "right")):
            marks = served.ask(f"/runs/{number}/review", {"id": polygon, "verdict": verdict}, X_Tileseg="view").json
        assert marks == {str(first): "right", str(second): "again"}
        assert served.ask(f"/runs/{number}/reviews.json").json == marks
        path = runs / f"{name}.tileseg" / "review.gpkg"
        frame = geopandas.read_file(path, layer="review").set_index("id")
        assert frame["verdict"].to_dict() == {first: "right", second: "again"}
        assert frame["teaches"].to_dict() == {first: frame["class_name"][first], second: "ignore"}
        assert {"class_name", "mean_probability", "marked"} <= set(frame.columns)
        assert frame.geometry.is_valid.all()
        served.ask(f"/runs/{number}/review", {"id": first, "verdict": None}, X_Tileseg="view")
        served.ask(f"/runs/{number}/review", {"id": second, "verdict": None}, X_Tileseg="view")
        assert not path.exists()


@pytest.mark.parametrize(
    "path",
    [
        "/runs/2/facts.json", "/runs/-1/facts.json", "/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd",
        "/static/viewer.js",
        "/runs/0/../../summary.json", "/runs/0/summary.json", "/runs/1/mosaic.zarr/zarr.json", "/runs/0/other/3/0/0",
        "/runs/0/labels/3/8/0", "/runs/0/labels/99/0/0", "//etc/passwd", "/viewer.js/../app.py",
    ],
)  # fmt: skip
def test_nothing_else_is_served(served: Served, path: str) -> None:
    assert served.ask(path).status == 404


def test_strangers_are_refused(served: Served) -> None:
    assert served.ask("/view.json", Host="example.org").status == 400
    answer = served.ask("/view.json", Origin="https://example.org")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert served.ask("/runs/1/review", {"id": 1, "verdict": "right"}).status == 403
    assert served.ask("/runs/1/written", {"threshold": "1:0.5"}).status == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs/1/changed.json", 400), ("/runs/1/changed.json?box=1,2,3", 400),
        ("/runs/1/changed.json?box=a,b,c,d", 400),
        ("/runs/1/changed.json?box=nan,0,1,1", 400), ("/runs/1/changed.json?box=0,0,1,1&threshold=x", 400),
        ("/runs/1/changed.json?box=30,30,50,50&threshold=99:0.5", 422),
        ("/runs/1/changed.json?box=30,30,50,50&threshold=1:7", 422),
    ],
)  # fmt: skip
def test_bad_questions_get_an_answer(served: Served, path: str, status: int) -> None:
    assert served.ask(path).status == status


@pytest.mark.parametrize("body", [{"id": 1, "verdict": "bad"}, {"id": 10**9, "verdict": "right"}])
def test_marks_that_mean_nothing_are_refused_in_a_line(served: Served, body: dict[str, object]) -> None:
    answer = served.ask("/runs/1/review", body, X_Tileseg="view")
    assert answer.status == 422
    assert "\n" not in answer.json["problem"]


@pytest.mark.parametrize("body", [[1], {"id": "1"}, {"id": 1, "verdict": 3}])
def test_marks_of_another_form_are_refused(served: Served, body: object) -> None:
    assert served.ask("/runs/1/review", body, X_Tileseg="view").status == 400


def test_without_its_scene_a_run_is_shown_still(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs / "placed.tileseg", tmp_path / "moved.tileseg", ignore=shutil.ignore_patterns("*.gpkg"))
    (run,) = [ViewedRun(tmp_path / "moved.tileseg", tmp_path / "gone.tif")]
    with serving([run]) as found:
        facts = found.ask("/runs/0/facts.json").json
        assert "gone.tif" in facts["scene_problem"]
        zoom = facts["zoom"]
        col, line = tile_at(run, zoom, 150, 210)
        assert found.ask(f"/runs/0/scene/{zoom}/{col}/{line}").status == 204
        assert found.ask(f"/runs/0/labels/{zoom}/{col}/{line}").status == 200
        assert found.ask("/runs/0/polygons.pmtiles").status == 200  # its own vector tiles


def test_an_unfinished_run_says_how_far_it_is(runs: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "begun.tileseg"
    shutil.copytree(runs / "placed.tileseg", folder)
    (folder / "summary.json").unlink()
    done = sorted((folder / ".state" / "done").rglob("*.json"))
    done[0].unlink()
    with serving([look_into(folder)]) as found:
        assert found.ask("/runs/0/facts.json").json["finished"] is False
        told = found.ask("/runs/0/progress.json").json
        assert (told["finished"], told["done"], told["blocks"]) == (False, len(done) - 1, len(done))
        assert len(told["area"]["features"]) == len(done) - 1
    with serving([look_into(runs / "placed.tileseg")]) as found:
        assert found.ask("/runs/0/progress.json").json["finished"] is True


def test_folders_that_are_no_runs_are_named(runs: Path, tmp_path: Path, in_process) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for place, said in (("empty", "is not the folder of a run"), ("file", "is a file"), ("gone", "is not there")):
        with pytest.raises(InputError, match=re.escape(f"{tmp_path / place}: {said}")):
            runs_in(tmp_path / place)
        told = in_process("view", tmp_path / place)
        assert told.returncode == 42
        assert told.stderr.count("\n") == 1
    damaged = tmp_path / "damaged.tileseg" / "mosaic.zarr"
    damaged.mkdir(parents=True)
    (damaged / "zarr.json").write_text("{}")
    lines: list[str] = []
    with pytest.raises(InputError):
        runs_in(tmp_path / "damaged.tileseg", tell=lines.append)
    with pytest.raises(UsageError, match="--scene"):
        look_into(runs / "placed.tileseg", tmp_path / "none.tif")


def test_a_port_in_use_is_named(runs: Path, in_process) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = in_process("view", runs / "placed.tileseg", "--port", port, "--no-browser")
    assert told.returncode == 2
    assert f"--port {port}: is in use" in told.stderr


def test_without_a_port_the_next_free_one_is_taken() -> None:
    with listening(None) as one, listening(None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]
        assert {one.getsockname()[0], other.getsockname()[0]} == {"127.0.0.1"}


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """All that it names is in the package, and only the makers' own files name other places."""
    own = [name for name in TYPES if not name.startswith(("maplibre", "pmtiles", "NOTICE"))]
    assert {page_file(name).name for name in TYPES} == {path.name for path in page_file("index.html").parent.iterdir()}
    for name in own:
        assert "http" not in page_file(name).read_text(encoding="utf-8")


def test_what_others_made_is_as_they_published_it() -> None:
    import hashlib

    notice = page_file("NOTICE.txt").read_text(encoding="utf-8")
    named = dict(reversed(row) for row in re.findall(r"(?m)^([0-9a-f]{64})  (\S+)  ", notice))
    assert len(named) == 4
    for name, digest in named.items():
        assert hashlib.sha256(page_file(name).read_bytes()).hexdigest() == digest


def test_a_scene_in_degrees_across_180_is_found_on_both_sides() -> None:
    from affine import Affine
    from pyproj import CRS

    from tileseg.grid import Grid

    grid = Grid(40, 60, Affine(0.1, 0, 177.0, 0, -0.1, 10), CRS.from_epsg(4326).to_wkt())
    placement = Placement(grid)
    west, _, east, _ = placement.degrees
    assert (west, east) == (pytest.approx(177), pytest.approx(183))
    for lon, col in ((178.05, 10), (-178.05, 49)):
        fraction = placement.of_lonlat(np.array([[lon, 9.95]]))
        np.testing.assert_array_equal(np.floor(placement.pixels(fraction)), [[col, 0]])
