"""Styles for QGIS, in the files and beside them, have the colours of the classes; and QGIS itself shows them so."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from desktop import CLASSES, UTM, Source, at, labels, opened, picture, python_with_qgis

from tileseg.formats import FORMATS, vector_paths
from tileseg.publish.cog import Layer, write_cogs
from tileseg.publish.label_cog import write_label_cog
from tileseg.publish.measure_cog import Measure
from tileseg.publish.qgis import write_style
from tileseg.run.vectorize import Classes, vectorize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Polygons in all formats, labels, and a probability."""
    place = tmp_path_factory.mktemp("files")
    vectorize(Source(UTM, labels()), vector_paths(place, FORMATS), Classes.of_card(CLASSES))
    write_label_cog(place / "labels.tif", UTM, CLASSES, lambda window: labels()[window.slices], [UTM.extent])
    chance = np.tile(np.linspace(0, 250, 90).astype(np.uint8), (60, 1))
    layer = Layer(place / "probability_water.tif", Measure("probability of water", 1 / 250))
    write_cogs([layer], UTM, lambda _: [chance], [UTM.extent])
    return place


def categories(text: str) -> dict[str, tuple[str, str]]:
    """Value -> label and outline of a style of polygons."""
    root = ET.fromstring(text)
    lines = {
        symbol.get("name"): next(p.get("v") for p in symbol.iter("prop") if p.get("k") == "outline_color")
        for symbol in root.iter("symbol")
    }
    return {c.get("value"): (c.get("label"), lines[c.get("symbol")]) for c in root.iter("category")}


def test_polygons_have_the_colors_of_their_classes(folder: Path) -> None:
    assert categories((folder / "polygons.qml").read_text()) == {
        "1": ("roof & <eaves>", "217,84,77,255"),
        "2": ("water", "63,127,191,255"),
        "3": ("never", "79,154,77,255"),
    }


def test_a_geopackage_has_the_style_inside(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "polygons.gpkg")) as database:
        rows = database.execute(
            "SELECT f_table_name, f_geometry_column, styleName, useAsDefault, styleQML FROM layer_styles"
        ).fetchall()
        (check,) = database.execute("PRAGMA integrity_check").fetchone()
    assert check == "ok"
    assert [row[:4] for row in rows] == [("polygons", "geom", "class", 1), ("polygons", "geom", "probability", 0)]
    assert rows[0][4] == (folder / "polygons.qml").read_text()
    assert "mean_probability" in rows[1][4]
    assert len(FORMATS["gpkg"].read(folder / "polygons.gpkg")) == 2


def test_the_labels_style_names_background_too(folder: Path) -> None:
    entries = ET.fromstring((folder / "labels.qml").read_text()).iter("paletteEntry")
    assert [(e.get("value"), e.get("color"), e.get("label")) for e in entries] == [
        (str(i), info.color, info.name) for i, info in enumerate(CLASSES)
    ]


def test_classes_of_any_raster_get_colors(tmp_path: Path) -> None:
    report = vectorize(Source(UTM, labels()), {"fgb": tmp_path / "a.fgb"}, Classes({}, colors={2: "#123456"}))
    assert report.paths == {"fgb": tmp_path / "a.fgb", "a_style": tmp_path / "a.qml"}
    found = categories((tmp_path / "a.qml").read_text())
    assert list(found) == ["0", "1", "2"]
    assert found["2"] == ("2", "18,52,86,255")
    assert len({line for _, line in found.values()}) == 3


def test_a_style_is_made_anew_unless_somebody_changed_it(tmp_path: Path) -> None:
    outputs = {"fgb": tmp_path / "a.fgb"}
    vectorize(Source(UTM, labels()), outputs, Classes.of_card(CLASSES))
    vectorize(Source(UTM, labels()), outputs, Classes.of_card(CLASSES, ["water"]))
    assert list(categories((tmp_path / "a.qml").read_text())) == ["2"]
    (tmp_path / "a.qml").write_text("<qgis/>")
    vectorize(Source(UTM, labels()), outputs, Classes.of_card(CLASSES))
    assert (tmp_path / "a.qml").read_text() == "<qgis/>"
    assert write_style(tmp_path / "b.tif", "text") == tmp_path / "b.qml"


@pytest.fixture(scope="module")
def qgis() -> str:
    return python_with_qgis()


def test_qgis_shows_all_of_it_in_the_classes_colors(qgis: str, folder: Path, tmp_path: Path) -> None:
    names = ["polygons.geojson", "polygons.geojsonl", "polygons.gpkg", "polygons.fgb", "labels.tif"]
    alone = shutil.copy(folder / "polygons.gpkg", tmp_path / "alone.gpkg")
    files = [*(folder / name for name in [*names, "probability_water.tif"]), Path(alone)]
    found = opened(qgis, tmp_path, *files)
    for name in (*names[:4], "alone.gpkg"):
        assert found[name]["renderer"] == "categorizedSymbol", name
        assert found[name]["features"] == 2
        assert found[name]["classes"] == {
            "1": ["roof & <eaves>", "#d9544d"], "2": ["water", "#3f7fbf"], "3": ["never", "#4f9a4d"],
        }  # fmt: skip
        drawn = picture(tmp_path, name)
        for color in ((217, 84, 77), (63, 127, 191)):
            assert (drawn == color).all(axis=2).sum() > 200, name
    assert sorted(found["alone.gpkg"]["styles"]) == ["class", "probability"]
    assert found["labels.tif"]["renderer"] == "paletted"
    drawn = picture(tmp_path, "labels.tif")
    assert [at(drawn, *place) for place in ((12, 30), (40, 70), (50, 20))] == [
        (217, 84, 77), (63, 127, 191), (200, 185, 154),
    ]  # fmt: skip
    assert found["probability_water.tif"]["renderer"] == "singlebandpseudocolor"
    drawn = picture(tmp_path, "probability_water.tif")
    assert at(drawn, 30, 1)[2] > at(drawn, 30, 1)[1]  # violet
    assert sum(at(drawn, 30, 88)[:2]) > 450  # yellow
