from fractions import Fraction
from pathlib import Path

import pytest

from tileseg.errors import UsageError
from tileseg.polygons.quantity import Quantity
from tileseg.spec import RunSpec, read_config


def test_text_with_commas_becomes_lists() -> None:
    spec = RunSpec.parse(
        {"scene": "a.tif", "scales": "1/2,1,1.5", "bands": "4,3,2", "formats": "gpkg,fgb", "max_memory": "8GiB"}
    )
    assert spec.scales == (Fraction(1, 2), Fraction(1), Fraction(3, 2))
    assert spec.bands == (4, 3, 2)
    assert spec.formats == ("gpkg", "fgb")
    assert spec.max_memory == 8 << 30


@pytest.mark.parametrize(
    ("scene", "folder"),
    [
        ("in/a.b.tif", "a.b.tileseg"),
        ("GTIFF_DIR:3:in/stack.tif", "stack-3.tileseg"),
        ("GTIFF_DIR:off:824:stack.tif", "stack-off-824.tileseg"),
        ("GPKG:in/two.gpkg:second", "two-second.tileseg"),
        ("s3://bucket/in/a.tif", "a.tileseg"),
    ],
)
def test_the_usual_folder_is_one_that_every_program_takes(scene, folder) -> None:
    """GDAL reads colons as notation of its own."""
    assert str(RunSpec.parse({"scene": scene}).folder) == folder


def test_formats_have_the_name_of_their_option() -> None:
    assert RunSpec(scene="a.tif", format="gpkg,fgb") == RunSpec.parse({"scene": "a.tif", "formats": "gpkg,fgb"})
    with pytest.raises(UsageError, match=r"^--colour: .*, format, min_area"):
        RunSpec.parse({"scene": "a.tif", "colour": "red"})


def test_numbers_are_taken_as_they_are_meant() -> None:
    spec = RunSpec.parse({"scene": "a.tif", "scales": 0.5, "min_area": 25, "simplify": 0.5, "classes": [1, "road"]})
    assert spec.scales == (Fraction(1, 2),)
    assert (spec.min_area, spec.simplify, spec.classes) == (Quantity(25), Quantity(0.5), ("1", "road"))
    assert RunSpec(scene="a.tif", fill_holes=2.5).fill_holes == Quantity(2.5)
    assert [spec.choices()[name] for name in ("min_area", "fill_holes", "simplify")] == ["25", None, "0.5"]
    assert RunSpec.parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"formats": "shp"}, "^--format: "),
        ({"scales": "1,half"}, "^--scales: scale 'half'"),
        ({"bands": "1,-2"}, "^--bands: "),
        ({"min_area": True}, "^--min-area: "),
        ({"scales": "half"}, "half"),
        ({"flips": "x"}, "--flips"),
        ({"connectivity": 6}, "--connectivity"),
        ({"block": 0}, "--block"),
        ({"bands": "0"}, "--bands"),
        ({"colour": "red"}, "--colour"),
        ({"max_memory": "lots"}, "--max-memory"),
        ({"min_erea": "1"}, "--min-erea"),
        ({"gsd": "coarse"}, "--gsd: .*expected auto, native or metres"),
        ({"gsd": "0"}, "--gsd"),
        ({"gsd": "nan"}, "--gsd"),
    ],
)
def test_mistakes_are_told_in_one_line(options, told) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        RunSpec.parse({"scene": "a.tif", **options})
    assert "\n" not in str(raised.value)


def test_ground_sample_distance_is_a_word_or_metres() -> None:
    assert RunSpec.parse({"scene": "a.tif"}).gsd == "auto"
    assert RunSpec.parse({"scene": "a.tif", "gsd": "native"}).gsd == "native"
    assert RunSpec.parse({"scene": "a.tif", "gsd": "0.25"}).gsd == 0.25
    assert RunSpec.parse({"scene": "a.tif", "gsd": 2}).gsd == 2.0


def test_default_folder_is_named_after_the_scene() -> None:
    assert RunSpec.parse({"scene": "/data/town.v2.tif"}).folder == Path("town.v2.tileseg")


def test_choices_leave_out_what_does_not_change_the_result() -> None:
    one = RunSpec.parse({"scene": "a.tif", "workers": 0, "max_memory": "1GiB", "overwrite": True})
    other = RunSpec.parse({"scene": "b.tif", "workers": 7, "out": "x"})
    assert one.choices() == other.choices()
    assert one.choices() != RunSpec.parse({"scene": "a.tif", "flips": "h"}).choices()


def test_configuration_files(tmp_path) -> None:
    good, bad = tmp_path / "run.toml", tmp_path / "bad.toml"
    good.write_text('scene = "a.tif"\nscales = ["1/2", 1]\nmin_area = "20px"\n')
    bad.write_text("scene = ")
    assert RunSpec.parse(read_config(good)).scales == (Fraction(1, 2), Fraction(1))
    good.write_text(
        'scene = "a.tif"\nformat = ["gpkg"]\nmin-area = 20\nmax-memory = "8GiB"\n'
    )  # as on the command line
    read = RunSpec.parse(read_config(good))
    assert (read.formats, read.min_area, read.max_memory) == (("gpkg",), Quantity(20), 8 << 30)
    with pytest.raises(UsageError, match="not TOML"):
        read_config(bad)
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "none.toml")
    bad.write_text('flips = "d4"', encoding="utf-16")
    with pytest.raises(UsageError, match=r"--config .*bad.toml: is not UTF-8 text; save it as UTF-8"):
        read_config(bad)


@pytest.mark.parametrize("stem", ["a" * 251, "\u00e4" * 125, "a" * 247])
def test_outputs_of_long_names_have_a_folder(tmp_path, stem) -> None:
    folder = RunSpec(scene=Path(f"{stem}.tif")).folder
    (tmp_path / folder).mkdir()  # file systems have no room for more than 255 bytes
    assert folder.name.startswith(stem[:100])
    assert folder.name.endswith(".tileseg")
    assert (folder.name == f"{stem}.tileseg") is (len(stem.encode()) <= 247)
    assert folder != RunSpec(scene=Path(f"{stem[:-1]}b.tif")).folder
