"""The catalogue against STAC's own schemas, which pystac brings along, and against what the runs say."""

import json
import multiprocessing
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path

import geopandas
import jsonschema
import pystac
import pytest
from affine import Affine
from fakes import CLASSES
from pyproj import CRS
from pystac.extensions.classification import ClassificationExtension
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from shapely.geometry import shape

from tileseg.batch.catalogue import write_catalogue
from tileseg.grid import Grid
from tileseg.mosaic import create_mosaic

UTM = CRS.from_epsg(32637).to_wkt()
MOON = CRS.from_user_input("IAU_2015:30100").to_wkt()
PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)


def make_run(folder: Path, height: int, width: int, taken: str | None, crs: str = UTM) -> None:
    create_mosaic(folder / "mosaic.zarr", Grid(height, width, PLACE, crs), (64, 64), CLASSES, "labels", {})
    for name in ("labels.tif", "labels.qml", "polygons.geojson", "polygons.qml", "quicklook.png", "scene.qgz"):
        (folder / name).write_bytes(b"x")
    report = {
        "polygons": {"roof": 3, "water": 1}, "pixels": {"ground": 7, "roof": 5, "water": 2}, "blocks": 4,
        "outputs": {"mosaic": "m/mosaic.zarr", "labels": "m/labels.tif", "geojson": "m/polygons.geojson",
                    "quicklook": "m/quicklook.png", "summary": "m/summary.json", "gpkg": "m/polygons.gpkg",
                    "labels_style": "m/labels.qml", "polygons_style": "m/polygons.qml", "project": "m/scene.qgz"},
    }  # fmt: skip
    summary = {
        "report": report, "written": "2026-01-02T03:04:05+00:00", "scene": {"path": f"in/{folder.name}.tif"},
        "model": {"name": "tiny", "sha256": "0" * 64, "credits": []},
        "versions": {"tileseg": "0.1", "keras": "3", "tensorflow": "2", "python": "3"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    if taken is not None:
        (folder / ".state").mkdir()
        (folder / ".state" / "source.json").write_text(json.dumps({"scene": "s3://b/x.tif", "datetime": taken}))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_run(folder / "a.tileseg", 60, 100, "2024-05-06T07:08:09Z")
    make_run(folder / "b.tileseg", 120, 40, None)
    assert write_catalogue(folder) == 2
    return folder


# What the three extensions say of their fields (their README, "Fields"). Their own schemas are on the web only, and no
# package brings them; a prefix is an extension's own, so fields that it does not know are mistakes.
TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
NUMBERS = {"type": "array", "items": {"type": "number"}}
CLASS = {
    "type": "object",
    "required": ["value", "name"],
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"},
        "title": TEXT,
        "description": TEXT,
        "color_hint": {"type": "string", "pattern": "^[0-9A-F]{6}$"},
        "nodata": {"type": "boolean"},
        "percentage": {"type": "number", "minimum": 0, "maximum": 100},
        "count": COUNT,
    },
    "additionalProperties": False,
}
FIELDS = {
    "processing:v1.2.0": {
        "processing:expression": {"type": "object", "required": ["format", "expression"]},
        "processing:lineage": TEXT,
        "processing:level": TEXT,
        "processing:facility": TEXT,
        "processing:version": TEXT,
        "processing:datetime": {"type": "string", "format": "date-time"},
        "processing:software": {"type": "object", "additionalProperties": TEXT},
    },
    "classification:v2.0.0": {
        "classification:classes": {"type": "array", "minItems": 1, "uniqueItems": True, "items": CLASS},
        "classification:bitfields": {"type": "array", "minItems": 1},
    },
    "projection:v2.0.0": {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Za-z]+:[0-9A-Za-z]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:projjson": {"type": ["object", "null"]},
        "proj:geometry": {"type": "object"},
        "proj:bbox": {**NUMBERS, "oneOf": [{"minItems": n, "maxItems": n} for n in (4, 6)]},
        "proj:centroid": {"type": "object", "required": ["lat", "lon"]},
        "proj:shape": {"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2},
        "proj:transform": {**NUMBERS, "oneOf": [{"minItems": n, "maxItems": n} for n in (6, 9)]},
    },
}


def validate_extensions(item: dict) -> None:
    """The fields of extensions, in an item and in its assets; and that it names those that it uses, in that version."""
    named = set(item["stac_extensions"])
    for extension, fields in FIELDS.items():
        name, _, version = extension.partition(":")
        prefix = next(iter(fields)).partition(":")[0]
        schema = {"properties": fields, "patternProperties": {f"^(?!{prefix}:)": {}}, "additionalProperties": False}
        check = jsonschema.Draft7Validator(schema)
        used = False
        for values in (item["properties"], *item["assets"].values()):
            check.validate(values)
            used = used or any(key.startswith(f"{prefix}:") for key in values)
        uri = f"https://stac-extensions.github.io/{name}/{version}/schema.json"
        assert (uri in named) == used
        named.discard(uri)
    assert not named


def validate(values: dict, kind: str) -> None:
    """By STAC's core schemas."""
    known = get_local_schema_cache()
    registry = Registry().with_resources([(uri, Resource.from_contents(schema)) for uri, schema in known.items()])
    schema = known[f"https://schemas.stacspec.org/v{pystac.get_stac_version()}/{kind}-spec/json-schema/{kind}.json"]
    jsonschema.Draft7Validator(schema, registry=registry).validate(values)


def test_everything_is_valid_stac(archive) -> None:
    validate(json.loads((archive / "collection.json").read_text()), "collection")
    for path in archive.glob("*/item.json"):
        validate(json.loads(path.read_text()), "item")
    broken = json.loads((archive / "a.tileseg" / "item.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        validate({**broken, "assets": [1]}, "item")


def test_rasters_of_probabilities_are_assets(tmp_path) -> None:
    make_run(tmp_path / "a.tileseg", 60, 100, None)
    path = tmp_path / "a.tileseg" / "summary.json"
    summary = json.loads(path.read_text())
    summary["report"]["outputs"]["probability_roof"] = "m/probability_roof.tif"
    path.write_text(json.dumps(summary))
    (path.parent / "probability_roof.tif").write_bytes(b"x")
    write_catalogue(tmp_path)
    item = json.loads((path.parent / "item.json").read_text())
    validate(item, "item")
    asset = item["assets"]["probability_roof"]
    assert (asset["href"], asset["title"]) == ("./probability_roof.tif", "Probability roof")
    assert asset["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"


def test_fields_of_extensions_are_as_they_specify(archive) -> None:
    for path in archive.glob("*/item.json"):
        item = json.loads(path.read_text())
        validate_extensions(item)
        where, classes = item["properties"], item["assets"]["labels"]["classification:classes"]
        for spoiled in (
            {**item, "properties": {**where, "proj:shape": [60.5, 100]}},
            {**item, "properties": {**where, "proj:epsg": 32637}},
            {**item, "properties": {**where, "processing:software": "tileseg 1"}},
            {**item, "assets": {"labels": {"classification:classes": [{**classes[0], "name": "two words"}]}}},
            {**item, "assets": {"labels": {"classification:classes": [{**classes[0], "color_hint": "#C8B48C"}]}}},
        ):
            with pytest.raises(jsonschema.ValidationError):
                validate_extensions(spoiled)
        # They say more than a schema can: sizes are rows before columns, the transform leads to their projection.
        (height, width), (a, b, c, d, e, f) = where["proj:shape"], where["proj:transform"]
        corners = [(a * x + b * y + c, d * x + e * y + f) for x, y in ((0, 0), (width, height))]
        (left, top), (right, bottom) = corners
        found = geopandas.GeoSeries([shape(item["geometry"])], crs=4326).to_crs(where["proj:code"]).total_bounds
        assert found == pytest.approx([left, bottom, right, top], abs=0.01)
        assert pystac.Item.from_dict(item).ext.proj.code == "EPSG:32637"


def test_links_lead_from_the_collection_to_the_files_and_back(archive) -> None:
    collection = pystac.read_file(str(archive / "collection.json"))
    items = list(collection.get_items())
    assert [item.id for item in items] == ["a", "b"]
    for item in items:
        assert item.get_parent().id == collection.id
        assert set(item.assets) == {  # gpkg is not there
            "mosaic", "labels", "labels_style", "polygons_style", "geojson", "quicklook", "project", "summary",
        }  # fmt: skip
        assert item.assets["polygons_style"].media_type == "application/xml"
        assert all(Path(asset.get_absolute_href()).exists() for asset in item.assets.values())


def test_items_say_when_where_and_what(archive) -> None:
    first, second = (pystac.Item.from_file(str(archive / f"{name}.tileseg" / "item.json")) for name in "ab")
    assert first.datetime.isoformat() == "2024-05-06T07:08:09+00:00"
    assert second.datetime.isoformat() == "2026-01-02T03:04:05+00:00"
    area = geopandas.GeoSeries([shape(first.geometry)], crs=4326).to_crs(32637)
    assert area.total_bounds == pytest.approx([500_000, 4_000_000 - 30, 500_050, 4_000_000], abs=0.01)
    assert first.properties["proj:shape"] == [60, 100]
    assert first.properties["processing:software"]["tileseg"] == "0.1"
    classes = ClassificationExtension.ext(first.assets["labels"]).classes
    assert [(c.value, c.name, c.color_hint) for c in classes][1] == (1, "roof", "D73027")
    assert first.properties["tileseg:scene"] == "s3://b/x.tif"


def test_the_index_has_footprints_and_counts(archive) -> None:
    index = geopandas.read_file(archive / "index.gpkg", layer="scenes")
    assert list(index.folder) == ["a.tileseg", "b.tileseg"]
    assert list(index.polygons) == [4, 4]
    assert list(index.polygons_roof) == [3, 3]
    assert index.to_crs(32637).area.tolist() == pytest.approx([30 * 50, 60 * 20], rel=1e-3)


def test_writing_it_again_changes_nothing_but_times(archive) -> None:
    before = (archive / "a.tileseg" / "item.json").read_bytes()
    write_catalogue(archive)
    assert (archive / "a.tileseg" / "item.json").read_bytes() == before


def test_a_scene_of_the_moon_has_no_footprint_on_earth(tmp_path) -> None:
    make_run(tmp_path / "earth.tileseg", 60, 100, None)
    make_run(tmp_path / "moon.tileseg", 60, 100, None, MOON)
    lines: list[str] = []
    assert write_catalogue(tmp_path, lines.append) == 2
    (line,) = lines
    assert line.startswith(f"no footprint: {tmp_path / 'moon.tileseg'}: the CRS 'Moon")
    items = {item.id: item for item in pystac.Collection.from_file(tmp_path / "collection.json").get_items()}
    assert items["moon"].geometry is None
    assert shape(items["earth"].geometry).area > 0
    index = geopandas.read_file(tmp_path / "index.gpkg").set_index("folder")
    assert index.geometry["moon.tileseg"] is None
    assert index.geometry["earth.tileseg"].area > 0


@pytest.mark.parametrize(
    "summary",
    [
        {"report": [], "scene": "x", "model": 1, "written": "2026-01-02T03:04:05+00:00"},
        {"report": {"outputs": []}, "scene": {"path": 1}, "model": {}, "written": "yesterday", "versions": None},
        "text",
    ],
)
def test_a_foreign_summary_is_left_out_and_told_of(tmp_path, summary) -> None:
    make_run(tmp_path / "a.tileseg", 60, 100, None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text(json.dumps(summary))
    lines: list[str] = []
    assert write_catalogue(tmp_path, lines.append) == 1
    assert [line.partition(": damaged")[0] for line in lines] == [
        f"not in the catalogue: {tmp_path / 'other' / 'summary.json'}"
    ]


def test_what_is_damaged_is_left_out_and_told_of(tmp_path) -> None:
    for name in ("a", "b", "c"):
        make_run(tmp_path / f"{name}.tileseg", 60, 100, "yesterday" if name == "a" else None)
    (tmp_path / "b.tileseg" / "summary.json").write_text("{")
    shutil.rmtree(tmp_path / "c.tileseg" / "mosaic.zarr")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text("[]")
    told: list[str] = []
    assert write_catalogue(tmp_path, told.append) == 1
    assert [Path(line.split(": ")[1]).relative_to(tmp_path).parts[0] for line in told] == [
        "b.tileseg", "c.tileseg", "other",
    ]  # fmt: skip
    assert all("\n" not in line for line in told)
    (item,) = pystac.Collection.from_file(tmp_path / "collection.json").get_items()
    # Of an earlier version, which did not look at dates: as if there were none.
    assert item.datetime.isoformat() == "2026-01-02T03:04:05+00:00"


def write_often(folder: Path, me: int, together: Barrier) -> None:
    together.wait(60)
    for i in range(5):
        make_run(folder / "made" / f"{me}{i}.tileseg", 60, 100, None)
        (folder / "made" / f"{me}{i}.tileseg").rename(folder / "archive" / f"{me}{i}.tileseg")
        write_catalogue(folder / "archive")


def test_two_batches_may_write_it_while_scenes_get_ready(tmp_path) -> None:
    """Those that share an archive end at about the same time."""
    (tmp_path / "archive").mkdir()
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(3)
    writers = [spawn.Process(target=write_often, args=(tmp_path, i, together)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    archive = tmp_path / "archive"
    assert len(geopandas.read_file(archive / "index.gpkg", layer="scenes")) == 15
    assert len(list(pystac.Collection.from_file(archive / "collection.json").get_items())) == 15
    assert list(archive.glob(".*")) == []
