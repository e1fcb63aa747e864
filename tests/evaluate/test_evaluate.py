"""Files in, a table, metrics.json and one page out: through the command line, as a user would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.shutil
import shapely
from fakes import save_tiny, smooth_noise, write_scene
from rasterio.transform import from_origin
from sklearn import metrics
from typer.testing import CliRunner

from tileseg.cli.main import app
from tileseg.errors import InputError, TilesegError, UsageError
from tileseg.evaluate.evaluate import EvaluateSpec, ModelSpec, evaluate_labels, evaluate_model
from tileseg.evaluate.sides import describe_side

HEIGHT, WIDTH = 90, 140
ORIGIN = (500_000, 4_000_000)


def _blobs(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, col in zip(rng.integers(5, 70, 9), rng.integers(5, 120, 9), strict=True):
        labels[row : row + 12, col : col + 17] = 1
    return labels


def _write(
    path: Path, labels: np.ndarray, *, pixel: float = 0.5, crs: str | None = "EPSG:32637", nodata: int | None = None
) -> Path:
    placed = {"crs": crs, "transform": from_origin(*ORIGIN, pixel, pixel)} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=labels.shape[0], width=labels.shape[1], count=1, dtype=labels.dtype,
        nodata=nodata, **placed,
    ) as file:  # fmt: skip
        file.write(labels, 1)
    return path


def _polygons(path: Path, labels: np.ndarray, crs: str | None = None, **columns: str) -> Path:
    shapes = rasterio.features.shapes(labels, mask=labels > 0, transform=from_origin(*ORIGIN, 0.5, 0.5))
    frame = geopandas.GeoDataFrame(geometry=[shapely.geometry.shape(s) for s, _ in shapes], crs="EPSG:32637")
    for name, value in columns.items():
        frame[name] = value
    (frame if crs is None else frame.to_crs(crs)).to_file(path)
    return path


def _run(*arguments: str | Path) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if isinstance(answer.exception, TilesegError):
        return answer.exception.exit_code, str(answer.exception)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, answer.output


def _metrics(folder: Path) -> dict:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


class _Links(HTMLParser):
    """What a page would load from elsewhere, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.pictures = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        if tag in ("script", "link", "iframe"):
            self.outside.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.outside.append(value or "")
        self.pictures += tag == "img"
        if tag not in ("meta", "img", "circle", "rect", "line", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs) -> None:
        """Closed already."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_two_rasters(tmp_path: Path) -> None:
    truth, prediction = _blobs(1), _blobs(1)
    prediction[:, :40] = _blobs(2)[:, :40]
    out = tmp_path / "out"
    code, said = _run(
        "--labels", _write(tmp_path / "p.tif", prediction), _write(tmp_path / "t.tif", truth), "--out", out,
        "--classes", "ground,roof", "--image", write_scene(tmp_path / "image.tif", smooth_noise(HEIGHT, WIDTH, 3)),
    )  # fmt: skip
    assert code == 0, said
    assert "roof" in said
    assert "report.html" in said
    found = _metrics(out)
    t, p = truth.ravel(), prediction.ravel()
    assert found["mean"]["iou"] == pytest.approx(metrics.jaccard_score(t, p, average="macro"), abs=1e-6)
    assert found["mean_without_background"]["iou"] == pytest.approx(metrics.jaccard_score(t, p), abs=1e-6)
    assert found["by_class"]["roof"]["dice"] == pytest.approx(metrics.f1_score(t, p), abs=1e-6)
    assert found["confusion"]["pixels"] == metrics.confusion_matrix(t, p).tolist()
    assert found["by_class"]["roof"]["hausdorff_m"] == pytest.approx(
        found["by_class"]["roof"]["hausdorff_px"] * 0.5, rel=2e-3
    )
    page = _Links()
    page.feed((out / "report.html").read_text())
    assert not page.outside
    assert not page.open
    assert page.pictures == 4  # one window
    assert '<i class="key line" style="border-color:#' in (out / "report.html").read_text()
    code, said = _run("--labels", tmp_path / "p.tif", tmp_path / "t.tif", "--out", out)
    assert (code, "--overwrite" in said) == (2, True)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_the_table_cuts_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["other", "residential building", "[b]unpaved road", "swimming-pool", "evergreen-forest"][:count]
    labels = np.arange(HEIGHT * WIDTH, dtype=np.int64).reshape(HEIGHT, WIDTH) // 97 % count
    files = [_write(tmp_path / f"{name}.tif", labels.astype(np.uint8)) for name in "pt"]
    code, said = _run("--labels", *files, "--out", tmp_path / "out", "--classes", ",".join(names), "--no-polygons")
    assert code == 0, said
    table = said.partition("report.html")[0]
    assert "…" not in table
    assert max(len(line) for line in table.splitlines()) <= 80
    for word in " ".join([*names, "mean without background", "1.000"]).split():
        assert word in table
    # What fits stands side by side, with all scores.
    assert ("volume error" in table) == (count == 2)


def test_no_positive_pixel_at_all(tmp_path: Path) -> None:
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    spec = EvaluateSpec(tmp_path / "out")
    found = evaluate_labels(_write(tmp_path / "p.tif", empty), _write(tmp_path / "t.tif", empty), spec)
    facts = _metrics(spec.out)
    assert facts["by_class"]["1"]["iou"] is None
    assert facts["mean_without_background"]["iou"] is None
    assert facts["mean"]["iou"] == 1
    assert facts["polygons"]["1"]["at_iou_0.5"] == {"precision": None, "recall": None, "f1": None}
    assert np.isnan(found.by_class()["hausdorff_px"][1])
    assert "Worst windows" not in (spec.out / "report.html").read_text()


def test_nothing_known_is_said(tmp_path: Path) -> None:
    unknown = np.full((HEIGHT, WIDTH), 255, np.uint8)
    spec = EvaluateSpec(tmp_path / "out")
    found = evaluate_labels(_write(tmp_path / "p.tif", _blobs()), _write(tmp_path / "t.tif", unknown, nodata=255), spec)
    assert any("no pixel with both" in notice for notice in found.notices)
    assert _metrics(spec.out)["accuracy"] is None


def test_masks_of_255(tmp_path: Path) -> None:
    files = ["--labels", _write(tmp_path / "p.tif", _blobs()), _write(tmp_path / "t.tif", _blobs() * np.uint8(255))]
    code, said = _run(*files, "--out", tmp_path / "out")
    assert (code, "--map-truth 255=1" in said) == (2, True)
    code, said = _run(*files, "--out", tmp_path / "out", "--map-truth", "255=1", "--json")
    assert code == 0, said
    assert _metrics(tmp_path / "out")["mean"]["iou"] == 1


def test_a_finer_prediction_is_warped_and_said(tmp_path: Path) -> None:
    truth = _blobs()
    fine = _write(tmp_path / "p.tif", truth.repeat(3, axis=0).repeat(3, axis=1), pixel=0.5 / 3)
    found = evaluate_labels(fine, _write(tmp_path / "t.tif", truth), EvaluateSpec(tmp_path / "out"))
    assert found.total.matrix.sum() == truth.size
    assert found.means()["iou"] == 1
    assert any("another grid" in notice for notice in found.notices)


def test_grids_that_do_not_meet_are_refused(tmp_path: Path) -> None:
    there = _write(tmp_path / "t.tif", _blobs(), crs="EPSG:32633")
    here = _write(tmp_path / "p.tif", _blobs())
    with pytest.raises(InputError, match="does not overlap"):
        evaluate_labels(here, there, EvaluateSpec(tmp_path / "out"))
    bare = _write(tmp_path / "bare.tif", _blobs()[:50], crs=None)
    with pytest.raises(InputError, match="only one of them says where it lies"):
        evaluate_labels(bare, there, EvaluateSpec(tmp_path / "out"))
    same = _write(tmp_path / "same.tif", _blobs(), crs=None)
    found = evaluate_labels(same, there, EvaluateSpec(tmp_path / "out"))
    assert found.means()["iou"] == 1
    assert any("pixel by pixel" in notice for notice in found.notices)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32636"])
def test_polygons_of_another_crs_against_a_raster(tmp_path: Path, crs: str) -> None:
    truth = _polygons(tmp_path / "t.geojson", _blobs(), crs)
    spec = EvaluateSpec(tmp_path / "out")
    found = evaluate_labels(_write(tmp_path / "p.tif", _blobs()), truth, spec)
    assert found.by_class()["iou"][1] > 0.98
    assert found.total.matchings[1].scores() == (1, 1, 1)


def test_polygons_against_polygons(tmp_path: Path) -> None:
    truth = _polygons(tmp_path / "t.gpkg", _blobs(), kind="roof")
    prediction = _polygons(tmp_path / "p.geojson", _blobs(), "EPSG:4326", class_name="roof")
    spec = EvaluateSpec(tmp_path / "out", attribute="kind")
    with pytest.raises(UsageError, match="has no column 'kind'"):
        evaluate_labels(prediction, truth, spec)
    with pytest.raises(UsageError, match="--pixel"):
        evaluate_labels(prediction, truth, EvaluateSpec(tmp_path / "out"))
    found = evaluate_labels(prediction, truth, EvaluateSpec(tmp_path / "out", pixel=0.25))
    assert found.classes[1].name == "roof"
    assert found.by_class()["iou"][1] > 0.98
    assert found.total.matchings[1].scores() == (1, 1, 1)


def test_a_prediction_without_polygons(tmp_path: Path) -> None:
    empty = tmp_path / "p.geojson"
    empty.write_text('{"type": "FeatureCollection", "features": []}')
    found = evaluate_labels(empty, _write(tmp_path / "t.tif", _blobs()), EvaluateSpec(tmp_path / "out"))
    assert found.by_class()["iou"][1] == 0
    assert found.total.matchings[1].predictions == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "what is evaluated"),
        (["--model", "embedded"], "on which scenes"),
        (["--labels", "a.tif", "b.tif", "--model", "embedded"], "what is evaluated"),
        (["--labels", "a.tif", "b.tif", "--flips", "d4"], "are for --model"),
        (["--model", "embedded", "d.toml", "--map-truth", "1=0"], "the dataset says it"),
        (["--model", "embedded", "d.toml", "--split", "test"], "--split test"),
    ],
)
def test_what_makes_no_sense(arguments: list[str], told: str) -> None:
    code, said = _run(*arguments)
    assert (code, told in said) == (2, True), said


def test_what_cannot_be_read(tmp_path: Path) -> None:
    truth = _write(tmp_path / "t.tif", _blobs())
    for path in (tmp_path / "none.tif", tmp_path / "none.geojson", tmp_path):
        code, said = _run("--labels", path, truth, "--out", tmp_path / "out")
        assert code == 42, said
        assert "\n" not in said.strip()


def test_classes_that_do_not_match_are_told_before_anything_is_run(model: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", smooth_noise(HEIGHT, WIDTH, 3))
    _write(tmp_path / "a_labels.tif", _blobs())
    dataset = tmp_path / "data.toml"
    dataset.write_text(
        'classes = [{name = "land", color = "#00ff00"}, {name = "sea", color = "#0000ff"}]\n'
        '[[scenes]]\nimage = "a.tif"\nlabels = "a_labels.tif"\nsplit = "validate"\n'
    )
    with pytest.raises(UsageError, match=r"is none of the classes land \(0\), sea \(1\); .*--map"):
        evaluate_model(ModelSpec(str(model), dataset), EvaluateSpec(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def _elsewhere(path: Path, file: Path) -> Path:
    """A virtual raster of a file that lies outside its folder."""
    path.parent.mkdir()
    rasterio.shutil.copy(file, path, driver="VRT")
    return path


def test_virtual_rasters_of_files_elsewhere_where_the_user_says_so(tmp_path: Path) -> None:
    prediction, truth = _write(tmp_path / "p.tif", _blobs(1)), _write(tmp_path / "t.tif", _blobs(2))
    image = write_scene(tmp_path / "i.tif", smooth_noise(HEIGHT, WIDTH, 3))
    virtual = [_elsewhere(tmp_path / file.stem / "a.vrt", file) for file in (prediction, truth, image)]
    rest = ("--no-distances", "--no-polygons", "--out")
    for given in ((virtual[0], truth, image), (prediction, virtual[1], image), (prediction, truth, virtual[2])):
        labels = ("--labels", *given[:2], "--image", given[2], *rest)
        code, said = _run(*labels, tmp_path / "none")
        assert code == 42
        assert "a.vrt: refers to" in said
        assert "--trust-vrt" in said
        shutil.rmtree(tmp_path / "none")
        code, said = _run("--trust-vrt", *labels, tmp_path / "out", "--overwrite")
        assert code == 0, said
    plain = _run("--labels", prediction, truth, *rest, tmp_path / "plain")
    assert plain[0] == 0
    assert _metrics(tmp_path / "out")["confusion"] == _metrics(tmp_path / "plain")["confusion"]


@pytest.mark.slow
def test_a_model_on_a_dataset(tmp_path: Path) -> None:
    card = save_tiny(tmp_path / "model")
    pixels = smooth_noise(HEIGHT, WIDTH, 3)
    write_scene(tmp_path / "a.tif", pixels)
    _elsewhere(tmp_path / "virtual" / "a.vrt", tmp_path / "a.tif")
    truth = _blobs()
    truth[:9] = 255
    _write(tmp_path / "a_labels.tif", truth)
    _polygons(tmp_path / "b.geojson", _blobs(3), "EPSG:4326")
    dataset = tmp_path / "data.toml"
    dataset.write_text(
        "classes = ["
        + ", ".join(
            f'{{name = "{c.name}", color = "{c.color}", background = {str(c.background).lower()}}}'
            for c in card.classes
        )
        + ']\n[[scenes]]\nimage = "a.tif"\nlabels = "a_labels.tif"\nsplit = "validate"\n'
        '[[scenes]]\nimage = "virtual/a.vrt"\ntrust_vrt = true\nlabels = "b.geojson"\nclass = "roof"\n'
        'split = "validate"\nname = "second"\n'
    )
    spec = EvaluateSpec(tmp_path / "out")
    model = ModelSpec(str(tmp_path / "model"), dataset, run={"workers": 0, "precision": "float32"})
    told: list[tuple[str, int, int]] = []
    found = evaluate_model(model, spec, progress=lambda *facts: told.append(facts))
    assert [scene.name for scene in found.scenes] == ["a", "second"]
    assert told[-1] == ("second", 1, 1)
    with rasterio.open(tmp_path / "out" / "runs" / "a.tileseg" / "labels.tif") as file:
        predicted = file.read(1)
    expected = metrics.confusion_matrix(truth[truth != 255], predicted[truth != 255], labels=range(3))
    assert np.array_equal(found.scenes[0].matrix, expected)
    assert found.total.calibration is not None
    assert found.total.calibration.counts[0].sum() == found.total.matrix.sum()
    facts = _metrics(spec.out)
    assert 0 <= facts["calibration"]["expected_calibration_error"] <= 1
    assert len(facts["scenes"]) == 2
    page = _Links()
    page.feed((spec.out / "report.html").read_text())
    assert not page.outside
    # With other measures, nothing is run again.
    written = (spec.out / "runs" / "a.tileseg" / "summary.json").stat().st_mtime_ns
    evaluate_model(model, EvaluateSpec(spec.out, polygons=False, overwrite=True))
    assert (spec.out / "runs" / "a.tileseg" / "summary.json").stat().st_mtime_ns == written
    assert _metrics(spec.out)["polygons"] == {}
    # Scenes of some places only, whatever their split.
    there = replace(model, split="train", places=("second",))
    chosen = evaluate_model(there, EvaluateSpec(spec.out, polygons=False, overwrite=True))
    assert [(scene.name, scene.place) for scene in chosen.scenes] == [("second", "second")]
    with pytest.raises(UsageError, match=r"--places third: no such place in .*; expected some of a, second"):
        evaluate_model(replace(model, places=("third",)), EvaluateSpec(tmp_path / "third"))
    # The raster alone tells as much of the classes as the folder.
    folder = spec.out / "runs" / "a.tileseg"
    assert describe_side(folder / "labels.tif").infos == describe_side(folder).infos
    # The same labels from the run's folder, without running anything.
    again = evaluate_labels(
        spec.out / "runs" / "a.tileseg",
        tmp_path / "a_labels.tif",
        EvaluateSpec(tmp_path / "again", classes=tuple(c.name for c in card.classes)),
    )
    assert np.array_equal(again.total.matrix, expected)


@pytest.mark.real_data
def test_a_real_label_raster_against_the_polygons_that_it_was_made_of(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "buildings"
    found = evaluate_labels(
        folder / "banepa_1_buildings.tif", folder / "banepa_osm_buildings.geojson", EvaluateSpec(tmp_path / "out")
    )
    assert found.by_class()["iou"][1] > 0.97
    assert found.by_class()["hausdorff95_m"][1] < 0.5
    assert found.total.matchings[1].scores()[2] > 0.9


def test_help_is_quick() -> None:
    code = (
        "import sys\nfrom tileseg.cli.main import main\nsys.argv = ['tileseg', 'evaluate', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'tensorflow', 'rasterio', 'scipy', 'shapely', 'numba', 'pyogrio'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def _boxes() -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction: a house that is found a little off, and a large false alarm."""
    truth, predicted = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[20:50, 20:50] = predicted[24:54, 20:50] = predicted[60:88, 60:130] = 1
    return truth, predicted


@pytest.mark.parametrize("side", ["truth", "prediction"])
@pytest.mark.parametrize(
    ("dtype", "nodata", "map_"),
    [
        ("uint8", 0, "0=other,1=building"), ("uint8", 1, "0=other,1=building"), ("uint8", 0, "1=building,*=other"),
        ("float32", 0, "0=other,1=building"), ("int64", 0, "1=building,*=other"),
    ],
)  # fmt: skip
def test_a_class_that_is_called_nodata_is_told_and_the_map_wins(tmp_path, side, dtype, nodata, map_) -> None:
    truth, predicted = _boxes()
    right = metrics.jaccard_score(truth.ravel(), predicted.ravel())
    files = [
        _write(tmp_path / f"{name}.tif", labels.astype(dtype), nodata=nodata if name == side else None)
        for name, labels in (("prediction", predicted), ("truth", truth))
    ]
    name = ("other", "building")[nodata]
    spec = EvaluateSpec(classes=("other", "building"), distances=False, polygons=False, out=tmp_path / "plain")
    found = evaluate_labels(*files, spec)
    told = [notice for notice in found.notices if "nodata" in notice]
    assert len(told) == 1
    assert f"{side}.tif: calls its value {nodata} nodata, so " in told[0]
    assert f"unknown and not '{name}'" in told[0]
    assert told[0].endswith(f": {'--map-truth' if side == 'truth' else '--map'} 0=other,1=building")
    mapped = {"map_truth" if side == "truth" else "map_prediction": (map_,)}
    found = evaluate_labels(*files, replace(spec, out=tmp_path / "mapped", **mapped))
    assert not [notice for notice in found.notices if "calls its value" in notice]
    assert found.by_class()["iou"][1] == pytest.approx(right)


@pytest.mark.parametrize("nodata", [255, 9])
def test_nodata_that_is_no_class_stays_unknown_whatever_the_map(tmp_path, nodata) -> None:
    truth, predicted = _boxes()
    truth[:10] = nodata
    files = _write(tmp_path / "p.tif", predicted), _write(tmp_path / "t.tif", truth, nodata=nodata)
    spec = EvaluateSpec(classes=("other", "building"), map_truth=("1=building", "*=other"), out=tmp_path / "out")
    found = evaluate_labels(*files, spec)
    assert found.total.unknown == 10 * WIDTH
    assert not [notice for notice in found.notices if "calls its value" in notice]


def test_a_mask_of_255_whose_background_is_nodata_is_asked_about(tmp_path) -> None:
    truth, predicted = _boxes()
    files = _write(tmp_path / "p.tif", predicted), _write(tmp_path / "t.tif", truth * np.uint8(255), nodata=0)
    with pytest.raises(UsageError, match=r"its ids are 0 and 255.*--map-truth 255="):
        evaluate_labels(*files, EvaluateSpec(out=tmp_path / "out"))


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_output_that_cannot_be_made_is_told_before_anything_is_compared(tmp_path, out) -> None:
    truth, predicted = _boxes()
    files = _write(tmp_path / "p.tif", predicted), _write(tmp_path / "t.tif", truth)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        evaluate_labels(*files, EvaluateSpec(out=tmp_path / out))


def test_metres_that_count_pixels_are_said_to(tmp_path: Path) -> None:
    truth = _write(tmp_path / "truth.tif", _blobs(), crs=None)
    found = evaluate_labels(truth, truth, EvaluateSpec(out=tmp_path / "out", boundary="3", min_area="2"))
    about = [notice for notice in found.notices if "counts pixels" in notice]
    assert [notice.split()[:2] for notice in about] == [["--boundary", "3"], ["--min-area", "2"]]
    placed = _write(tmp_path / "placed.tif", _blobs())
    for path, boundary in ((truth, "3px"), (placed, "3")):
        out = tmp_path / path.stem
        found = evaluate_labels(path, path, EvaluateSpec(out=out, boundary=boundary))
        assert not any("counts pixels" in notice for notice in found.notices)
