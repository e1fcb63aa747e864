"""What a model's card says of the polygons that its users hand over: defaults of a run and of ``vectorize``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene
from pydantic import ValidationError

from tileseg import RunSpec, run
from tileseg.card import HandedOver, ModelCard
from tileseg.mosaic import Mosaic
from tileseg.nn.folder import load_card, save_card
from tileseg.polygons.quantity import Quantity
from tileseg.run.prepare import prepare
from tileseg.spec import VectorOptions

USUAL = HandedOver(min_area="40px", fill_holes="9px", regularize=("roof",), tolerance="3px")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, {"min_area", "fill_holes", "regularize", "tolerance"}),
        ({"min_area": "5"}, {"fill_holes", "regularize", "tolerance"}),
        ({"min_area": "0", "fill_holes": "0"}, {"regularize", "tolerance"}),
        ({"simplify": "2px"}, {"min_area", "fill_holes"}),
        ({"regularize": "water"}, {"min_area", "fill_holes"}),
        ({"raw": True, "fill_holes": "5px"}, set()),
    ],
)
def test_what_is_given_comes_first(given: dict[str, object], taken: set[str]) -> None:
    asked = VectorOptions.parse(given)
    options, told = asked.handing_over(USUAL)
    assert set(told.given) == taken
    for name in ("min_area", "fill_holes", "tolerance"):
        usual = Quantity.parse(getattr(USUAL, name))
        assert getattr(options, name) == (usual if name in taken else getattr(asked, name))
    assert options.regularize == (("roof",) if "regularize" in taken else asked.regularize)


def test_a_card_without_wishes_changes_nothing() -> None:
    options, told = VectorOptions.parse({"min_area": "5"}).handing_over(HandedOver())
    assert (options, told.told) == (VectorOptions.parse({"min_area": "5"}), "")
    assert USUAL.told == "--min-area 40px --fill-holes 9px --tolerance 3px --regularize roof"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"min_area": "large"}, "'large' is no area or length"),
        ({"tolerance": "1"}, "regularize, which names no class"),
        ({"regularize": ["barn"]}, "hands_over.regularize: barn: not among the classes"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(model: Path, wrong: dict[str, object], what: str) -> None:
    facts = json.loads(load_card(model).model_dump_json())
    with pytest.raises(ValidationError, match=what):
        ModelCard.model_validate(facts | {"hands_over": wrong})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(90, 140, 3))


@pytest.fixture(scope="module")
def usual(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a card that says what is handed over."""
    folder = tmp_path_factory.mktemp("model") / model.name
    shutil.copytree(model, folder)
    save_card(load_card(folder).model_copy(update={"hands_over": USUAL}), folder)
    return folder


def polygons(scene: Path, model: Path, out: Path, **options: object) -> bytes:
    wish = {"scene": scene, "model": str(model), "out": out, "workers": 0, "precision": "float32"}
    return (run(RunSpec.parse(wish | options)).folder / "polygons.geojson").read_bytes()


def test_a_run_delivers_what_the_card_says_and_raw_what_the_pixels_have(
    scene: Path, model: Path, usual: Path, tmp_path: Path, in_process: object
) -> None:
    given = {"min_area": "40px", "fill_holes": "9px", "regularize": "roof", "tolerance": "3px"}
    asked = polygons(scene, model, tmp_path / "asked", **given)
    raw = polygons(scene, model, tmp_path / "plain")
    assert asked != raw
    assert polygons(scene, usual, tmp_path / "usual") == asked
    assert polygons(scene, usual, tmp_path / "raw", raw=True) == raw
    assert Mosaic(tmp_path / "usual/mosaic.zarr").hands_over == USUAL
    assert Mosaic(tmp_path / "plain/mosaic.zarr").hands_over == HandedOver()
    (note,) = [line for line in prepare(RunSpec(scene=scene, model=str(usual))).notices if "hand them over" in line]
    assert note.endswith(f"{USUAL.told} (--raw: as the pixels have them)")

    def again(name: str, *options: str) -> tuple[bytes, str]:
        told = in_process("vectorize", tmp_path / "usual", "--name", name, *options)  # type: ignore[operator]
        assert told.returncode == 0, told.stderr
        return (tmp_path / "usual" / f"{name}.geojson").read_bytes(), told.stderr

    assert again("again") == (
        asked, f"note: as the model's users hand over: {USUAL.told} (--raw: as the pixels have them)\n",
    )  # fmt: skip
    assert again("untouched", "--raw") == (raw, "")
