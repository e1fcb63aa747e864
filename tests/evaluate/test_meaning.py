"""Which predicted class is which true one."""

from __future__ import annotations

from pathlib import Path

import pytest
from affine import Affine

from tileseg.card import ClassInfo
from tileseg.errors import UsageError
from tileseg.evaluate.meaning import agree, match_classes
from tileseg.evaluate.sides import ALL, Side
from tileseg.grid import Grid

GRID = Grid(4, 7, Affine.identity())
INFOS = {
    "ground": ClassInfo(name="ground", color="#c8b99a", background=True),
    "building": ClassInfo(name="building", color="#d9544d"),
    "road": ClassInfo(name="road", color="#6b6b76"),
}
MODEL = Side(Path("run"), Path("labels.tif"), GRID, {"0": "ground", "1": "building", "2": "road"}, INFOS)


def _raster(*ids: int) -> Side:
    return Side(Path("truth.tif"), Path("truth.tif"), GRID, {str(i): None for i in ids})


def _names(meaning) -> list[str]:
    return [info.name for info in meaning.classes]


def test_one_predicted_class_against_a_mask() -> None:
    found = agree(_raster(0, 1), MODEL, map_prediction=["building=1"])
    assert _names(found) == ["background", "building"]
    assert [info.background for info in found.classes] == [True, False]
    assert found.prediction == {"0": 0, "1": 1, "2": 0}
    assert found.truth == {"0": 0, "1": 1}
    assert any("ground, road" in notice for notice in found.notices)


def test_all_others_and_ignored() -> None:
    found = agree(_raster(0, 1), MODEL, map_prediction=["building=1,*=0", "road=ignore"])
    assert found.prediction == {"0": 0, "1": 1, "2": 255}
    assert not any("counted" in notice for notice in found.notices)


def test_a_mask_against_a_named_model_asks_what_it_shows() -> None:
    with pytest.raises(UsageError, match="--map building=1"):
        agree(_raster(0, 1), MODEL)


def test_masks_of_255_ask_too_and_are_mapped() -> None:
    with pytest.raises(UsageError, match="--map-truth 255=1"):
        agree(_raster(0, 255), _raster(0, 1))
    found = agree(_raster(0, 255), _raster(0, 1), map_truth=["255=1"])
    assert found.truth == {"0": 0, "255": 1}
    assert _names(found) == ["background", "1"]


def test_masks_of_255_ask_also_where_the_other_side_has_names() -> None:
    mask = _raster(0, 255)
    with pytest.raises(UsageError, match="--map-truth 255=building"):
        agree(mask, MODEL)
    with pytest.raises(UsageError, match="--map-truth 255=cell"):
        agree(mask, _raster(0, 1), names=["matrix", "cell"])
    with pytest.raises(UsageError, match="--map 255=building"):
        agree(MODEL, mask)
    found = agree(mask, MODEL, map_truth=["255=building"])
    assert (_names(found), found.truth) == (["ground", "building", "road"], {"0": 0, "255": 1})
    assert found.notices == ()
    assert agree(mask, MODEL, map_truth=["255=2"]).truth == {"0": 0, "255": 2}
    assert agree(mask, MODEL, map_truth=["255=ignore"]).truth == {"0": 0, "255": 255}


def test_the_truth_is_mapped_to_the_names_of_the_prediction() -> None:
    polygons = Side(Path("osm.geojson"), Path("osm.geojson"), None, {ALL: None})
    found = agree(polygons, MODEL, map_truth=["*=road"])
    assert (_names(found), dict(found.truth)) == (["ground", "building", "road"], {ALL: 2})
    with pytest.raises(UsageError, match=r"expected one of ground \(0\), building \(1\), road \(2\), or ignore"):
        agree(_raster(0, 7), MODEL, map_truth=["7=tower"])


def test_a_name_that_no_side_has_is_told_how_to_be_given() -> None:
    for maps in ({"map_prediction": ["255=building"]}, {"map_truth": ["1=building"]}):
        with pytest.raises(UsageError, match=r"building: no such class.*; --classes other,building"):
            agree(_raster(0, 1), _raster(0, 255), **{"map_prediction": ["255=1"], **maps})
    found = agree(_raster(0, 1), _raster(0, 255), names=["other", "building"], map_prediction=["255=building,*=other"])
    assert found.prediction == {"0": 0, "255": 1}


def test_names_are_matched_whatever_the_ids() -> None:
    truth = Side(Path("t"), Path("t"), GRID, {"0": "Road", "1": "Ground", "2": "Building"})
    found = agree(truth, MODEL)
    assert _names(found) == ["Road", "Ground", "Building"]
    assert found.prediction == {"0": 1, "1": 2, "2": 0}


def test_a_class_without_counterpart_is_an_error_with_a_way_out() -> None:
    truth = Side(Path("t"), Path("t"), GRID, {"0": "ground", "1": "building"})
    with pytest.raises(UsageError, match=r"road is none of the classes ground \(0\), building \(1\)"):
        agree(truth, MODEL)
    assert agree(truth, MODEL, map_prediction=["road=building,*=ground"]).prediction == {"0": 0, "1": 1, "2": 1}


def test_unnamed_rasters_are_compared_by_id() -> None:
    found = agree(_raster(1, 195), _raster(0, 1, 255))
    assert _names(found) == ["0", "1", "195"]
    assert found.truth == {"1": 1, "195": 2}
    assert found.prediction == {"0": 0, "1": 1, "255": 255}
    assert not any(info.background for info in found.classes)
    mapped = agree(_raster(0, 195), MODEL, map_prediction=["building=195"])
    assert _names(mapped) == ["background", "building"]
    assert (mapped.truth, mapped.prediction) == ({"0": 0, "195": 1}, {"0": 0, "1": 1, "2": 0})


def test_polygons_without_classes() -> None:
    polygons = Side(Path("osm.geojson"), Path("osm.geojson"), None, {ALL: None})
    with pytest.raises(UsageError, match="--map building=1"):
        agree(polygons, MODEL)
    found = agree(polygons, MODEL, map_prediction=["building=1"])
    assert (_names(found), dict(found.truth)) == (["background", "building"], {ALL: 1})
    assert agree(polygons, _raster(0, 1)).truth == {ALL: 1}


def test_polygons_with_classes_get_a_background() -> None:
    polygons = Side(Path("t.gpkg"), Path("t.gpkg"), None, {"building": "building", "road": "road"}, attribute="kind")
    found = agree(polygons, MODEL)
    assert _names(found) == ["ground", "building", "road"]
    assert found.truth == {"building": 1, "road": 2}
    assert found.prediction == {"0": 0, "1": 1, "2": 2}


def test_names_given_by_the_user() -> None:
    found = agree(_raster(0, 1, 2), _raster(0, 1, 2), names=["other", "tree", "lake"])
    assert _names(found) == ["other", "tree", "lake"]
    assert found.classes[0].background
    with pytest.raises(UsageError, match="called the same"):
        agree(_raster(0, 1), _raster(0, 1), names=["a", "a"])


@pytest.mark.parametrize(
    ("text", "told"),
    [("building", "expected VALUE=CLASS"), ("tower=1", "has no tower"), ("building=9", "no such class")],
)
def test_wrong_maps(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        agree(_raster(0, 1), MODEL, map_prediction=[text] if text != "building=9" else ["building=tower"])


def test_a_dataset_and_a_model() -> None:
    classes = (INFOS["ground"], INFOS["building"])
    with pytest.raises(UsageError, match="--map road=building"):
        match_classes(classes, MODEL)
    found = match_classes((*classes, ClassInfo(name="tree", color="#00ff00")), MODEL, ["road=ground"])
    assert found.prediction == {"0": 0, "1": 1, "2": 0}
    assert found.notices == ("the model cannot give tree",)
