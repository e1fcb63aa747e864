"""The command line as a user meets it: real processes, exit codes, one line per mistake.

What does not depend on a process of its own (``in_process`` instead of ``tileseg``) is asked of ``main()``.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio.features
from fakes import smooth_noise, write_scene


def tileseg(*arguments: object, timeout: float = 600, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tileseg", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)


def complaint(told: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that failed as it should."""
    assert told.returncode == code, told.stderr
    lines = [line for line in told.stderr.splitlines() if line.startswith("tileseg: ")]
    assert len(lines) == 1, told.stderr
    assert "Traceback" not in told.stderr
    return lines[0]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(301, 403, 3))


@pytest.fixture(scope="module")
def finished(scene, model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "run"
    told = tileseg("run", scene, "--model", model, "--out", folder, "--block", 128)
    assert told.returncode == 0, told.stderr
    assert "polygons:" in told.stdout
    return folder


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tileseg.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = 'numpy pydantic rasterio dask zarr keras tensorflow numba pyproj shapely'.split()\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr.strip() == "[]"
    assert "vectorize" in told.stdout


def test_every_command_has_help(in_process) -> None:
    for command in ("run", "vectorize", "model info", "model check", "model pack", "doctor"):
        told = in_process(*command.split(), "--help")
        assert told.returncode == 0
        assert "Usage" in told.stdout


def test_a_finished_run_says_so(in_process, scene, model, finished) -> None:
    told = in_process("run", scene, "--model", model, "--out", finished, "--block", 128)
    assert told.returncode == 0
    assert "finished already" in told.stdout


def test_other_options_exit_2(scene, model, finished) -> None:
    told = tileseg("run", scene, "--model", model, "--out", finished, "--block", 128, "--flips", "h")
    assert "flips was none, is h" in complaint(told, 2)


def test_json_on_stdout_alone_and_a_spatial_index_beside_tensorflow(in_process, scene, keras_model, tmp_path) -> None:
    given = ("run", scene, "--model", keras_model, "--format", "geojson,gpkg", "--json")
    told = tileseg(*given, "--out", tmp_path / "run", "--workers", 0)
    report = json.loads(told.stdout)
    assert report["blocks"] == 1
    assert Path(report["outputs"]["geojson"]).exists()
    with contextlib.closing(sqlite3.connect(report["outputs"]["gpkg"])) as file:
        assert [row[2] for row in file.execute("select * from gpkg_extensions")] == ["gpkg_rtree_index"]
    plan = json.loads(in_process(*given, "--dry-run").stdout)
    assert plan["blocks"] == 1


def test_dry_run_writes_nothing_and_prints_the_plan(in_process, scene, model, tmp_path) -> None:
    told = in_process("run", scene, "--model", model, "--scales", "1/2,1", "--flips", "d4", "--dry-run", cwd=tmp_path)
    assert told.returncode == 0
    for word in ("blocks", "halo", "redundancy", "TFLOP", "projected peak", "exact"):
        assert word in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_options_from_a_file_and_the_command_line_wins(in_process, scene, model, tmp_path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'scene = "{scene}"\nmodel = "{model}"\nflips = "h"\nblock = 256\n')
    plan = json.loads(in_process("run", "--config", config, "--flips", "hv", "--dry-run", "--json").stdout)
    assert (plan["views"], plan["block"]) == (4, [256, 256])
    config.write_text('sceen = "x.tif"\n')
    assert "--sceen" in complaint(in_process("run", "x.tif", "--config", config), 2)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("run",), 2, "which scene"),
        (("run", "{scene}", "--scales", "x"), 2, "--scales"),
        (("run", "{scene}", "--connectivity", "5"), 2, "--connectivity"),
        (("run", "{scene}", "--max-memory", "10MiB"), 2, "--max-memory"),
        (("run", "/nowhere.tif"), 42, "/nowhere.tif"),
        (("run", "{text}"), 42, "text.tif"),
        (("run", "{scene}", "--model", "/nowhere"), 42, "/nowhere"),
        (("run", "{scene}", "--model", "{text}"), 42, "text.tif"),
        (("run", "{scene}", "--bands", "1,2,7"), 42, "7"),
        (("run", "{scene}", "--out", "/proc/nowhere"), 42, "cannot be written"),
        (("vectorize", "{text}"), 42, "text.tif"),
        (("vectorize", "{folder}"), 42, "not a mosaic"),
        (("model", "info", "/nowhere"), 42, "/nowhere"),
    ],
)
def test_mistakes_get_one_line_and_their_exit_code(in_process, scene, model, tmp_path, arguments, code, told) -> None:
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    names = {"scene": scene, "model": model, "text": text, "folder": tmp_path}
    found = complaint(in_process(*(a.format(**names) for a in arguments), cwd=tmp_path), code)
    assert told in found
    assert not list(tmp_path.glob("*.tileseg"))


def test_unknown_options_exit_2(in_process, scene) -> None:
    assert in_process("run", scene, "--colour", "red").returncode == 2


def test_a_folder_in_use_exits_75(in_process, scene, model, tmp_path) -> None:
    long = command(scene, model, tmp_path / "run", "--scales", "1/2,1,3/2")
    holder = start(long)
    try:
        wait_for((tmp_path / "run/.state/run.json").exists)
        assert "is working on this folder" in complaint(in_process(*long), 75)
    finally:
        holder.kill()
        holder.communicate()


def command(scene: Path, model: Path, out: Path, *more: object) -> Sequence[object]:
    """A run of some seconds, in 130 blocks."""
    return ("run", scene, "--model", model, "--out", out, "--block", 32, "--flips", "d4", *more)


def start(arguments: Sequence[object]) -> subprocess.Popen[str]:
    """It, in a process group of its own as a shell would give it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tileseg", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(happened, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_ctrl_c_drains_and_keeps_what_is_done(scene, model, tmp_path) -> None:
    out = tmp_path / "run"
    process = start(command(scene, model, out))
    wait_for(lambda: list(out.glob(".state/done/*/*.json")))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "run the same command again to go on" in errors
    done = {p: p.stat().st_mtime_ns for p in out.glob(".state/done/*/*.json")}
    assert 0 < len(done) < 130
    told = tileseg(*command(scene, model, out))
    assert told.returncode == 0, told.stderr
    assert f"{130 - len(done)} of 130 blocks computed now" in told.stdout
    assert {p: p.stat().st_mtime_ns for p in done} == done


def test_a_second_ctrl_c_stops_at_once(scene, model, tmp_path) -> None:
    out = tmp_path / "run"
    process = start(command(scene, model, out))
    wait_for(lambda: list(out.glob(".state/done/*/*.json")))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_vectorizing_a_mosaic_again_gives_the_same_polygons(in_process, finished, tmp_path) -> None:
    told = tileseg("vectorize", finished, "--out", tmp_path, "--block", 128)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "polygons.geojson").read_bytes() == (finished / "polygons.geojson").read_bytes()
    assert "exists" in complaint(in_process("vectorize", finished, "--out", tmp_path), 2)
    loose = in_process("vectorize", finished, "--out", tmp_path, "--name", "loose", "--threshold", "roof=0.2", "--json")
    counts = json.loads(loose.stdout)["polygons"]
    assert counts["roof"] > 0
    assert "CLASS=P" in complaint(in_process("vectorize", finished, "--threshold", "roof", "--name", "x"), 2)


def test_a_run_and_its_label_raster_give_the_same_classes(in_process, finished, tmp_path) -> None:
    whole, raster = (
        json.loads(in_process("vectorize", source, "--out", tmp_path, "--name", name, "--json").stdout)["polygons"]
        for name, source in (("a", finished), ("b", finished / "labels.tif"))
    )
    assert raster == whole
    ground = in_process("vectorize", finished / "labels.tif", "--out", tmp_path, "--name", "c", "--classes", "ground")
    assert "ground" in ground.stdout


def test_an_image_instead_of_labels_is_told_of_in_a_short_line(in_process, tmp_path) -> None:
    ids = np.arange(12 * 30, dtype=np.uint16).reshape(12, 30, 1)
    write_scene(tmp_path / "many.tif", ids)
    told = in_process("vectorize", tmp_path / "many.tif", "--out", tmp_path)
    assert told.stdout.splitlines()[0] == (
        "polygons: 0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, and 350 of 350 more classes"
    )


def test_a_run_without_its_end_is_not_vectorized_without_a_word(in_process, finished, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    assert "run: the run is not finished" in complaint(in_process("vectorize", run, "--out", tmp_path), 1)
    assert not (tmp_path / "polygons.geojson").exists()
    told = in_process("vectorize", run / "mosaic.zarr", "--out", tmp_path)
    assert told.returncode == 0
    assert "not computed counts as nodata" in told.stderr
    assert (tmp_path / "polygons.geojson").exists()
    (tmp_path / "taken.txt").write_text("mine")
    assert "cannot be written" in complaint(in_process("vectorize", finished, "--out", tmp_path / "taken.txt"), 42)


def test_label_rasters_can_be_vectorized(in_process, finished, tmp_path) -> None:
    all_of_it = ("--classes", "ground,roof,water", "--format", "gpkg,fgb,parquet")
    told = in_process("vectorize", finished / "labels.tif", "--out", tmp_path, *all_of_it, "--json")
    assert told.returncode == 0, told.stderr
    counts = json.loads(told.stdout)["polygons"]
    with rasterio.open(finished / "labels.tif") as file:
        labels = file.read(1)
    expected = sum(1 for _ in rasterio.features.shapes(labels, mask=labels != 255))
    assert sum(counts.values()) == expected


def test_disk_full_is_told_and_resumed(scene, model, tmp_path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        arguments = ("run", scene, "--model", model, "--out", small / "run", "--block", 128, "--workers", 0)
        told = tileseg(*arguments)
        assert told.returncode == 1, told.stderr
        assert "Traceback" not in told.stderr
        assert "No space left" in told.stderr or "disk is full" in told.stderr
        assert not (small / "run" / "summary.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert tileseg(*arguments).returncode == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)
