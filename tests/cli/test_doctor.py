"""Each check on literals; the whole once, on the machine that runs the tests."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tileseg.cli.doctor import (
    Diagnosis,
    Finding,
    ProbeAnswer,
    ask,
    check_backend,
    check_disk,
    check_drivers,
    check_folder,
    check_gis_paths,
    check_gpus,
    check_import,
    check_installed,
    check_keras,
    check_memory,
    check_numba_cache,
    check_precision,
    check_python,
    doctor,
    numba_caches,
    read_answer,
)
from tileseg.cluster.hardware import Cpu, Gpu, Hardware, MainMemory

GIB = 1 << 30
H200 = Gpu(0, "GPU-1", "NVIDIA H200", 140 * GIB, (9, 0))
V100 = Gpu(1, "GPU-2", "Tesla V100", 16 * GIB, (7, 0))


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "warn")]
)
def test_python(version: tuple[int, int], status: str) -> None:
    assert check_python(version).status == status


def test_python_is_compared_as_numbers() -> None:
    assert check_python((3, 9)).what == "Python 3.9 is too old"


@pytest.mark.parametrize(
    ("memory", "status", "word"),
    [
        (MainMemory(16 * GIB, 12 * GIB), "ok", "12.0 of 16.0"),
        (MainMemory(16 * GIB, 2 * GIB), "warn", "2.0 of 16.0"),
        (MainMemory(3 * GIB, 3 * GIB), "warn", "3.0 GiB of memory in all"),
    ],
)
def test_memory(memory: MainMemory, status: str, word: str) -> None:
    finding = check_memory(memory)
    assert (finding.status, word in finding.what) == (status, True)
    assert bool(finding.remedy) == (status != "ok")


@pytest.mark.parametrize(("free", "status"), [(5 * GIB, "ok"), (GIB - 1, "warn"), (0, "warn")])
def test_disk(free: int, status: str) -> None:
    assert check_disk(free, Path("/data")).status == status


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("3.15.1", "ok"),
        ("3.15.10", "ok"),
        ("4.0", "ok"),
        ("3.16.0.dev2026", "ok"),
        ("3.15.0", "fail"),
        ("3.9.2", "fail"),
        ("2.15", "fail"),
        ("missing", "fail"),
    ],
)
def test_keras(version: str, status: str) -> None:
    finding = check_keras(version)
    assert finding.status == status
    assert finding.remedy == ("" if status == "ok" else 'pip install "keras>=3.15.1"')


def test_a_missing_package_fails() -> None:
    assert check_installed("zarr", "missing") == Finding("fail", "zarr is not installed", "pip install tileseg")
    assert check_installed("zarr", "3.1.6") == Finding("ok", "zarr 3.1.6")


def test_backend() -> None:
    assert check_backend("", importable=True).status == "ok"
    assert check_backend("jax", importable=True).status == "ok"
    finding = check_backend("jax", importable=False)
    assert finding.status == "fail"
    assert finding.what == "KERAS_BACKEND=jax, which is not installed"
    assert finding.remedy.startswith("pip install jax")


def test_a_broken_library_says_which_and_why() -> None:
    finding = check_import(ProbeAnswer("rasterio", {}, "ImportError: libexpat.so.1: cannot open shared object file"))
    assert finding.status == "fail"
    assert finding.what == "rasterio does not work: ImportError: libexpat.so.1: cannot open shared object file"
    assert check_import(ProbeAnswer("rasterio", {"gdal": "3.10"})).status == "ok"


SEES_ONE = ProbeAnswer("keras", {"backend": "tensorflow", "gpus": ["GPU:0"]})
SEES_NONE = ProbeAnswer("keras", {"backend": "tensorflow", "gpus": []})


@pytest.mark.parametrize(
    ("gpus", "keras", "cpu_only", "expected"),
    [
        ((), SEES_NONE, False, ("ok", "")),
        ((H200,), SEES_ONE, False, ("ok", "")),
        ((H200,), SEES_NONE, False, ("warn", 'pip install "tileseg[gpu]"')),
        ((H200, V100), SEES_ONE, False, ("warn", 'pip install "tileseg[gpu]"')),
        (
            (H200,),
            SEES_NONE,
            True,
            ("warn", 'pip uninstall tensorflow-cpu tensorflow, then pip install "tileseg[gpu]"'),
        ),
        ((H200,), ProbeAnswer("keras", {"backend": "jax", "gpus": None}), False, ("ok", "")),
        ((H200,), ProbeAnswer("keras", {}, "crashed with signal 11"), False, ("warn", "")),
    ],
)
def test_gpus(gpus: tuple[Gpu, ...], keras: ProbeAnswer, cpu_only: bool, expected: tuple[str, str]) -> None:
    finding = check_gpus(gpus, keras, cpu_only_build=cpu_only)
    assert (finding.status, finding.remedy) == expected
    assert all(gpu.name in finding.what for gpu in gpus)


def test_precision_names_the_device() -> None:
    cpu = Cpu("", 2, frozenset({"amx_bf16"}))
    memory = MainMemory(GIB, GIB)
    assert check_precision(Hardware(cpu, memory, ())).what.startswith("the CPU computes bfloat16")
    assert check_precision(Hardware(cpu, memory, (V100,))).what.startswith("the GPU computes float16")


@pytest.mark.parametrize(
    ("there", "status", "missing"),
    [
        (["GTiff", "COG", "VRT", "PNG"], "ok", ""),
        (["GTiff", "COG", "VRT"], "warn", "PNG"),
        (["GTiff", "PNG"], "fail", "COG, VRT"),
        ([], "fail", "GTiff, COG, VRT, PNG"),
    ],
)
def test_drivers(there: list[str], status: str, missing: str) -> None:
    wanted = ("GTiff", "COG", "VRT", "PNG")
    (finding,) = check_drivers("rasterio", "read", wanted, ProbeAnswer("rasterio", {"drivers": there}))
    assert finding.status == status
    assert finding.what == (f"rasterio cannot read {missing}" if missing else "rasterio can read GTiff, COG, VRT, PNG")


def test_drivers_of_a_library_that_failed_are_not_missing() -> None:
    assert check_drivers("rasterio", "read", ("GTiff",), ProbeAnswer("rasterio", {}, "broken")) == ()


def test_gis_paths() -> None:
    assert check_gis_paths({"PATH": "/bin", "PROJ_LIB": ""}).status == "ok"
    finding = check_gis_paths({"PROJ_LIB": "/usr/share/proj", "GDAL_DATA": "/opt/gdal"})
    assert finding.status == "warn"
    assert finding.remedy.startswith("unset GDAL_DATA PROJ_LIB")


def test_folder(tmp_path: Path) -> None:
    assert check_folder(tmp_path, "temporary files", "TMPDIR").status == "ok"
    missing = check_folder(tmp_path / "gone", "temporary files", "TMPDIR")
    assert missing.status == "fail"
    assert missing.what.endswith("(temporary files): No such file or directory")
    assert missing.remedy == "set TMPDIR to a folder that you can write to"
    assert list(tmp_path.iterdir()) == []


def test_numba_tries_the_package_and_then_the_user() -> None:
    home, package = Path("/home/ada"), Path("/opt/tileseg")
    assert numba_caches({}, home, package) == (package, Path("/home/ada/.cache/numba"))
    assert numba_caches({"XDG_CACHE_HOME": "/var/c"}, home, package) == (package, Path("/var/c/numba"))
    assert numba_caches({"NUMBA_CACHE_DIR": "/scratch"}, home, package) == (Path("/scratch"),)


def test_numba_cache_needs_one_place(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a file is no folder")
    assert check_numba_cache([file, tmp_path / "made" / "later"]).status == "ok"
    finding = check_numba_cache([file])
    assert finding.status == "warn"
    assert str(file) in finding.what


def test_an_answer_is_the_last_line() -> None:
    answer = read_answer("keras", 0, 'Welcome!\n{"backend": "tensorflow", "gpus": ["GPU:0"]}\n', "noise")
    assert (answer.error, answer.names("gpus"), answer.names("backend")) == ("", ("GPU:0",), ())


def test_a_traceback_is_told_by_its_last_line() -> None:
    stderr = "Traceback (most recent call last):\n  File \"x\"\nModuleNotFoundError: No module named 'keras'\n"
    assert read_answer("keras", 1, "", stderr).error == "ModuleNotFoundError: No module named 'keras'"
    assert read_answer("keras", 3, "", "").error == "exit code 3"


def test_a_crash_is_told_by_its_signal() -> None:
    assert read_answer("keras", -11, "", "half a line").error == "crashed with signal 11"


def test_a_library_that_cannot_be_imported_is_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shapely.py").write_text("raise ImportError('GEOS is broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    assert ask("shapely") == ProbeAnswer("shapely", {}, "ImportError: GEOS is broken")


def test_healthy_means_that_nothing_failed() -> None:
    hardware = Hardware(Cpu("", 1, frozenset()), MainMemory(1, 1), ())
    fine, note, bad = Finding("ok", "a"), Finding("warn", "b", "c"), Finding("fail", "d", "e")
    assert Diagnosis(hardware, "float32", {}, (fine, note)).healthy
    assert not Diagnosis(hardware, "float32", {}, (fine, bad)).healthy


def test_this_machine_as_json_and_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both are told what the libraries answered once: asking them takes seconds.
    monkeypatch.setattr("tileseg.cli.doctor.ask", functools.cache(ask))
    app = typer.Typer()
    app.command()(doctor)
    as_json = CliRunner().invoke(app, ["--json"])
    told = json.loads(as_json.stdout)
    assert as_json.exit_code == (0 if told["healthy"] else 1)
    assert told["versions"]["keras backend"] == "tensorflow"
    assert told["hardware"]["cpu"]["cores"] >= 1
    assert told["precision"] in {"float32", "bfloat16", "float16"}
    assert {finding["status"] for finding in told["findings"]} <= {"ok", "warn", "fail"}

    text = CliRunner().invoke(app, [])
    assert text.exit_code == as_json.exit_code
    for finding in told["findings"]:
        if "free" not in finding["what"]:  # memory and disk change between the two
            assert finding["what"] in text.stdout


def test_a_wrong_backend_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "KERAS_BACKEND=theano, which is not installed" in result.stdout
    assert "reinstall keras" not in result.stdout


def test_loading_the_command_loads_no_heavy_library() -> None:
    heavy = {"tensorflow", "keras", "rasterio", "zarr", "dask", "distributed", "shapely", "numba", "rich.table"}
    code = f"import sys, tileseg.cli.doctor; print(sorted({heavy!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
