"""What a user gets wrong every day is said in one line, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene

from tileseg.errors import did_you_mean
from tileseg.spec import ClusterSpec, read_config

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiles").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("good", "other"):
        write_scene(tmp_path / "tiles" / f"{name}.tif", smooth_noise(40, 56, 3))
    (tmp_path / "area.geojson").write_text("{}")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    (tmp_path / "m.pt").write_bytes(b"PK")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "begin", "end"),
    [
        (["run", "empty"], 42, "empty: no rasters there", ""),
        (["run", "tiles/[nN]one.tif"], 42, "tiles/[nN]one.tif: cannot be opened: No such file", ""),
        (
            ["run", "tiles/good.tif", "tiles/god.tif"],
            42,
            "tiles/good.tif and 1 more: tiles/god.tif: cannot be opened: No such file",
            "--missing nodata goes on without (did you mean good.tif?)",
        ),
        (["run", "tiles", "--crs", "EPSG:99"], 2, "--crs EPSG:99: ", "expected one such as EPSG:32637"),
        (["run", "tiles", "--on-top", "frist"], 2, "--on-top: 'frist': expected", "(did you mean first?)"),
        (["run", "tiles/good.tif", "--out", "o.GPKG"], 2, "--out o.GPKG: is the name of a file", "--format gpkg"),
        (["run", "tiles/good.tif", "--stitch", "han"], 2, "--stitch: 'han': expected one", "(did you mean hann?)"),
        (["run", "tiles/god.tif"], 42, "tiles/god.tif: ", "(did you mean good.tif?)"),
        (["run", "tiles/GOOD.TIF"], 42, "tiles/GOOD.TIF: ", "(did you mean good.tif?)"),
        (["run", "tiles/good.tif", "--aoi", "are.geojson"], 42, "are.geojson: ", "(did you mean area.geojson?)"),
        (["run", "tiles/good.tif", "--model", "embeded"], 42, "embeded: no such model (did you mean embedded?)", ""),
        (
            ["run", "tiles/good.tif", "--model", "m.onnx"],
            42,
            "m.onnx: an ONNX file without a card",
            "or say with --fact what the card would: --fact classes=NAME[:#RRGGBB],...",
        ),
        (["run", "tiles/good.tif", "--model", "m.pt"], 42, "m.pt: pickles can run code", "MODEL.onnx FOLDER ..."),
        (["run", "tiles/good.tif", "--format", "gpgk"], 2, "--format: 'gpgk': expected some", "(did you mean gpkg?)"),
        (["run", "tiles/good.tif", "--config", "none.toml"], 2, "--config none.toml: ", "No such file or directory"),
        (
            ["run", "tiles/good.tif", "--classes", "bulding"],
            2,
            "--classes bulding: no such class (did you mean bui",
            "",
        ),
        (["batch", "tilse", "--out", "o"], 2, "tilse: no such file, folder or pattern", "(did you mean tiles?)"),
        (["merge", "tilse", "--out", "o.gpkg"], 2, "tilse: is not there (did you mean tiles?)", "for each scene"),
        (["vectorize", "tiles/god.tif"], 42, "tiles/god.tif: ", "(did you mean good.tif?)"),
        (["train", "x.toml", "--out", "o"], 42, "x.toml: ", "No such file or directory"),
    ],
)
def test_one_line_says_what_was_meant(folder, in_process, arguments, code, begin, end) -> None:
    said = in_process(*arguments, cwd=folder)
    line = said.stderr.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith(f"tileseg: {begin}")
    assert line.endswith(end)
    assert said.returncode == code


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rum", "a.tif"], "Did you mean 'run'?"),
        (["model", "chek"], "Did you mean 'check'?"),
        (["run", "a.tif", "--flip", "d4"], "--flips"),
        (["train", "a.toml", "--step", "3"], "--steps"),
    ],
)
def test_commands_and_options_too(in_process, arguments, meant) -> None:
    said = in_process(*arguments)
    assert said.returncode == 2
    assert meant in said.stderr


def test_the_nearest_word_whatever_its_case() -> None:
    assert did_you_mean("Bulding", ["road", "building"]) == " (did you mean building?)"
    assert did_you_mean("water", ["road", "building"]) == ""
    assert did_you_mean("road", []) == ""


def test_files_that_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'{BOM}flips = "d4"\n', encoding="utf-8")
    assert read_config(tmp_path / "a.toml") == {"flips": "d4"}
    (tmp_path / "a.yaml").write_text(f"{BOM}scheduler: tcp://head:8786\n", encoding="utf-8")
    assert ClusterSpec.read(tmp_path / "a.yaml") == ClusterSpec(scheduler="tcp://head:8786")
