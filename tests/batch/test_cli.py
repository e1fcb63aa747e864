"""``tileseg batch`` as a user meets it."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import typer
from fakes import smooth_noise, write_scene
from typer.testing import CliRunner

from tileseg.batch.report import SceneResult
from tileseg.cli import batch, run
from tileseg.cli.batch_progress import BatchProgress
from tileseg.cli.main import app


def test_every_option_of_a_run_is_one_of_a_batch() -> None:
    # A table has a column for the files of bands; how long scenes take is not estimated together yet.
    of_one_scene = {"context", "scene", "band", "price_per_hour", "watts"}
    wanted = set(inspect.signature(run.command).parameters) - of_one_scene
    assert wanted <= set(inspect.signature(batch.command).parameters)
    options = {name for param in typer.main.get_command(app).commands["batch"].params for name in param.opts}
    assert {"--out", "--shard", "--flips", "--format", "--max-memory", "--scheduler", "--verbose"} <= options


def test_a_dry_run_lists_scenes_and_folders(tmp_path) -> None:
    for name in ("b.tif", "a.tif"):
        (tmp_path / name).touch()
    told = CliRunner().invoke(app, ["batch", str(tmp_path), "--out", "res", "--shard", "2/2", "--dry-run"])
    assert told.exit_code == 0
    assert told.stdout == f"{tmp_path / 'b.tif'} -> {Path('res') / 'b.tileseg'}\n"


def test_a_dry_run_in_json(tmp_path) -> None:
    for name in ("b.tif", "a.tif"):
        (tmp_path / name).touch()
    told = CliRunner().invoke(app, ["batch", str(tmp_path), "--out", "res", "--dry-run", "--json"])
    scenes = [{"scene": str(tmp_path / f"{name}.tif"), "folder": f"{name}.tileseg"} for name in "ab"]
    assert json.loads(told.stdout) == {"out": "res", "scenes": scenes}


def test_a_scene_that_is_waited_for_is_told_of_once(capsys) -> None:
    with BatchProgress(quiet=False, verbose=False) as lines:
        lines.start(1)
        for status in ("locked", "locked", "locked", "done"):
            lines.scene(SceneResult("a.tif", "a.tileseg", status, 0, ""))
    assert [line.split(":")[1].split(",")[0] for line in capsys.readouterr().err.splitlines()] == [" locked", " done"]


def test_unusable_scenes_alone_exit_42_and_are_listed(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.tif").write_text("not a raster")
    command = [sys.executable, "-m", "tileseg", "batch", "in", "--out", "res", "--workers", "0", "--json"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 42, told.stderr
    assert json.loads(told.stdout)["counts"]["unusable"] == 1
    assert json.loads((tmp_path / "res" / "batch.json").read_text())["scenes"][0]["code"] == 42


def test_a_dry_run_knows_whose_folders_are_there(tmp_path, in_process) -> None:
    """Where a scene of the same name has the plain one, and is still there."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.tif").touch()
    state = tmp_path / "res" / "one.tileseg" / ".state"
    state.mkdir(parents=True)
    (state / "source.json").write_text(json.dumps({"scene": str(tmp_path / "a" / "one.tif")}))
    told = in_process("batch", "a", "--out", "res", "--dry-run", cwd=tmp_path)
    assert told.stdout == f"a/one.tif -> {Path('res') / 'one.tileseg'}\n"
    other = in_process("batch", "b", "--out", "res", "--dry-run", cwd=tmp_path)
    assert other.stdout.startswith(f"b/one.tif -> {Path('res') / 'one-'}")


def test_what_cannot_be_merged_says_what_is_expected(tmp_path, in_process) -> None:
    (tmp_path / "file.tif").touch()
    (tmp_path / "one.tileseg").mkdir()
    (tmp_path / "one.tileseg" / "summary.json").write_text("{}")
    said = {
        name: in_process("merge", name, "--out", "all.gpkg", cwd=tmp_path)
        for name in ("none", "file.tif", "one.tileseg")
    }
    assert {name: call.returncode for name, call in said.items()} == dict.fromkeys(said, 2)
    assert said["none"].stderr.startswith("tileseg: none: is not there; expected the folder of a batch")
    assert said["file.tif"].stderr.startswith("tileseg: file.tif: is a file; expected the folder of a batch")
    assert said["one.tileseg"].stderr.startswith("tileseg: one.tileseg: is the folder of one scene; expected the one")


def test_a_damaged_neighbour_does_not_spoil_a_batch(tmp_path, in_process, model) -> None:
    write_scene(tmp_path / "a.tif", smooth_noise(40, 60, 3))
    (tmp_path / "res" / "other").mkdir(parents=True)
    (tmp_path / "res" / "other" / "summary.json").write_text("{")
    told = in_process("batch", "a.tif", "--out", "res", "--workers", "0", "--model", model, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "1 done" in told.stdout
    assert f"not in the catalogue: {Path('res') / 'other' / 'summary.json'}: damaged" in told.stderr
    assert (tmp_path / "res" / "collection.json").exists()
