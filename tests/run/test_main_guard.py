"""Scripts whose workers would run them again: recognised before anything is written, in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene

from tileseg.run.main_guard import _is_guarded
from tileseg.run.names import IN_PROCESS

CALL = "run(RunSpec(scene='scene.tif', out='out', model='{model}', workers=1))"
SCRIPTS = {
    "run": (
        "from tileseg import RunSpec, run\n"
        "SPEC = RunSpec(scene='scene.tif', out='out', model='{model}', workers=1)\nrun(SPEC)\n"
    ),
    "batch": (
        "from pathlib import Path\nfrom tileseg.batch.archive import run_batch\n"
        "from tileseg.batch.spec import BatchSpec\nfrom tileseg.batch.sources import read_sources\n"
        "def main():\n    run_batch(BatchSpec(read_sources(['scene.tif']), Path('out'), {{'model': '{model}'}}))\n"
        "main()\n"
    ),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_without_a_guard_ends_in_one_line(model, tmp_path, what) -> None:
    write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3))
    (tmp_path / "script.py").write_text(SCRIPTS[what].format(model=model))
    told = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    last = told.stderr.splitlines()[-1]
    assert told.returncode == 1
    assert 'if __name__ == "__main__":' in last
    assert "script.py, line " in last
    assert told.stderr.count("__main__") == 1
    assert not (tmp_path / "out").exists()


def test_a_script_on_standard_input_is_told_before_anything_is_written(model, tmp_path) -> None:
    write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3))
    script = f"if __name__ == '__main__':\n    from tileseg import RunSpec, run\n    {CALL.format(model=model)}\n"
    told = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 1
    assert "there is no such file; write it into one, or give workers=0" in told.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_script_needs_no_guard_where_no_processes_are_started(model, tmp_path) -> None:
    """Not even to go on where the one before was killed, which otherwise starts one."""
    write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3))
    script = f"from tileseg import RunSpec, run\n{CALL.format(model=model).replace(', workers=1', '')}\n"
    (tmp_path / "out" / ".state").mkdir(parents=True)
    (tmp_path / "out" / ".state" / IN_PROCESS).write_text("killed")
    told = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "out" / "summary.json").exists()
    assert not (tmp_path / "out" / ".state" / IN_PROCESS).exists()


@pytest.mark.parametrize(
    ("text", "line", "guarded"),
    [
        ("run()\n", 1, False),
        ("if __name__ == '__main__':\n    run()\n", 2, True),
        ("if __name__ == '__main__':\n    pass\nrun()\n", 3, False),
        ("def main():\n    run()\nmain()\n", 3, False),
        ("with open('a') as b:\n    for i in range(3):\n        run()\n", 3, False),
        ("import sys\nif sys.argv[1:]:\n    for i in sys.argv:\n        run()\n", 4, True),
        ("run(\n", 1, True),
    ],
)
def test_what_counts_as_a_guard(tmp_path: Path, text, line, guarded) -> None:
    (tmp_path / "script.py").write_text(text)
    assert _is_guarded(tmp_path / "script.py", line) is guarded
