"""workflows/slurm: what the array script does with each exit code; and, where asked for, a real Slurm of one node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from archives import delivered, draw_archive
from one_node_slurm import missing, one_node

from tileseg.spec import ClusterSpec

FOLDER = Path(__file__).parents[2] / "workflows" / "slurm"
BESIDE = Path(sys.executable).parent


# --- The script, with stand-ins for tileseg and scontrol --------------------------------------------------------


class Task:
    """One task of an array, whose ``tileseg`` ends as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"
        self.programs.mkdir()
        self._program("scontrol", f'echo "$@" >> {folder}/scontrol.told')

    def _program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def start(self, tileseg: str, **changed: str) -> subprocess.Popen[str]:
        self._program("tileseg", f'echo "$@" > {self.folder}/tileseg.told\n{tileseg}')
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "5",
            "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "5", **changed,
        }  # fmt: skip
        command = ["bash", str(FOLDER / "array.sh"), "a b.tif", "--out", "res"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def told(self, program: str) -> list[str]:
        path = self.folder / f"{program}.told"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def test_a_share_is_one_task_and_the_arguments_are_passed_on(task) -> None:
    assert ended(task.start("exit 0")) == 0
    assert task.told("tileseg") == ["batch a b.tif --out res --shard 3/5 --no-catalogue --quiet"]
    assert task.told("scontrol") == []


@pytest.mark.parametrize("code", [2, 42])
def test_what_is_useless_is_not_queued_again(task, code) -> None:
    assert ended(task.start(f"exit {code}")) == code
    assert task.told("scontrol") == []


@pytest.mark.parametrize("failing", ["exit 1", "kill -KILL $$"])
def test_what_failed_is_queued_again_so_many_times(task, failing) -> None:
    for _ in range(3):
        assert ended(task.start(failing)) in (1, 137)
    assert task.told("scontrol") == ["requeue 71_3"] * 2
    # Another job begins to count anew; a share that is done in the end leaves nothing behind.
    ended(task.start("exit 1", SLURM_ARRAY_JOB_ID="72"))
    assert task.told("scontrol")[2:] == ["requeue 72_3"]
    ended(task.start("exit 0", SLURM_ARRAY_JOB_ID="72"))
    assert [path.name for path in task.folder.glob("*.failures")] == ["tileseg-71_3.failures"]


DRAINS = "trap 'sleep 0.3; exit 130' TERM; touch $0.ready; while :; do sleep 0.05; done"


def test_before_the_time_limit_it_drains_and_is_queued_again_without_end(task) -> None:
    for count in range(1, 5):
        process = task.start(DRAINS)
        ready = task.programs / "tileseg.ready"
        until(ready.exists, "tileseg is there")
        process.send_signal(signal.SIGUSR1)
        assert ended(process) == 130
        assert task.told("scontrol") == ["requeue 71_3"] * count
        ready.unlink()


def test_what_is_cancelled_is_not_queued_again(task) -> None:
    process = task.start(DRAINS)
    until((task.programs / "tileseg.ready").exists, "tileseg is there")
    for told in (*psutil.Process(process.pid).children(), psutil.Process(process.pid)):
        told.terminate()  # as Slurm does, to all processes of the job
    assert ended(process) == 130
    assert task.told("scontrol") == []


@pytest.mark.parametrize("array", [("0", "4"), ("2", "6"), ("1", "9")])
def test_arrays_that_are_no_shares_are_refused(task, array) -> None:
    assert ended(task.start("exit 0", SLURM_ARRAY_TASK_MIN=array[0], SLURM_ARRAY_TASK_MAX=array[1])) == 2
    assert task.told("tileseg") == []


@pytest.mark.parametrize(
    "script", sorted(FOLDER.parent.glob("*/*.sh")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_shellcheck_finds_nothing(script) -> None:
    told = subprocess.run([BESIDE / "shellcheck", script], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_the_cluster_file_makes_the_jobs_that_it_says() -> None:
    slurm = pytest.importorskip("dask_jobqueue.slurm")
    spec = ClusterSpec.read(FOLDER / "cluster.yaml")
    assert spec.kind == "dask_jobqueue.SLURMCluster"
    script = slurm.SLURMJob("tcp://head:8786", "worker", **spec.arguments).job_script()
    for line in ("#SBATCH --cpus-per-task=8", "#SBATCH --mem=16G", "#SBATCH -t 04:00:00"):
        assert line in script
    assert "export TILESEG_COMPUTE_THREADS=8" in script
    assert "--nthreads 2" in script


# --- A real Slurm ------------------------------------------------------------------------------------------------

SIZES = [(420, 710), (610, 350), (390, 830), (540, 460), (430, 530), (310, 690)]
OPTIONS = ["--block", "128", "--gsd", "native", "--flips", "h", "--precision", "float32", "--format", "parquet"]
PATIENCE = 1800
"""Seconds, far more than it takes on a machine with nothing else to do."""


class Slurm:
    """Commands to a Slurm, and an archive to work on."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = {**environment, "PATH": f"{BESIDE}:{environment['PATH']}"}
        self.folder = folder

    def ask(self, *command: str | Path, code: int = 0) -> str:
        told = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert told.returncode == code, f"{command}: {told.stdout}{told.stderr}"
        return told.stdout.strip()

    def submit(self, *arguments: str | Path) -> str:
        return self.ask("sbatch", "--parsable", *arguments)

    def task(self, job: str, task: int) -> dict[str, str]:
        """What Slurm knows of one task of an array."""
        told = self.ask("scontrol", "show", "job", f"{job}_{task}", "--oneliner")
        return dict(pair.partition("=")[::2] for pair in told.split() if "=" in pair)

    def queued(self) -> list[str]:
        return self.ask("squeue", "-h", "-r", "-o", "%F_%K %T").splitlines()

    def log(self, job: str, task: int) -> str:
        path = self.folder / f"tileseg-{job}_{task}.log"
        return path.read_text() if path.exists() else ""

    def process(self, text: str) -> psutil.Process | None:
        """The tileseg process with ``text`` in its command line."""
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if "tileseg" in " ".join(words[:2]) and text in words:
                return process
        return None


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    if os.environ.get("TILESEG_TEST_SLURM") != "1":
        pytest.skip("takes minutes; workflows/slurm/try.sh asks for it")
    if lacking := missing():
        pytest.skip(f"not installed (Debian: slurm-wlm, munge): {', '.join(lacking)}")
    folder = tmp_path_factory.mktemp("archive")
    with tempfile.TemporaryDirectory(prefix="slurm-") as state, one_node(Path(state)) as environment:
        yield Slurm(environment, folder)


@pytest.fixture(scope="module")
def plain(slurm) -> dict[str, str]:
    """The archive, and what a plain local batch makes of it."""
    draw_archive(slurm.folder / "scenes", SIZES)
    slurm.ask("tileseg", "batch", "scenes", "--out", "plain", *OPTIONS)
    return delivered(slurm.folder / "plain")


@pytest.mark.slow
def test_an_array_that_is_disturbed_gives_the_same_files(slurm, plain) -> None:
    small = ["--cpus-per-task=1", "--mem=3G", "--time=01:00:00"]
    job = slurm.submit("--array=1-3", *small, FOLDER / "array.sh", "scenes", "--out", "shared", *OPTIONS)
    gather = f"tileseg batch scenes --out shared {' '.join(OPTIONS)}"
    slurm.submit(f"--dependency=afterany:{job}", "--output=after.log", "--wrap", gather)

    # One is killed, as when memory runs out; one is queued again by somebody; one is near its time limit. Each once it
    # has finished a block, and long before it is through.
    disturb = {
        1: lambda: slurm.process("1/3").kill(),
        2: lambda: slurm.ask("scontrol", "requeue", f"{job}_2"),
        3: lambda: slurm.ask("scancel", "--batch", "--signal=USR1", f"{job}_3"),
    }

    def all_disturbed() -> bool:
        for task in list(disturb):
            if list((slurm.folder / "shared" / f"scene{task - 1}.tileseg" / ".state").glob("done/*/*.json")):
                disturb.pop(task)()
        return not disturb

    until(all_disturbed, "a block of each share", PATIENCE)
    until(lambda: not slurm.queued(), "all jobs have ended", PATIENCE)
    logs = {task: slurm.log(job, task) for task in (1, 2, 3)}
    told = {task: slurm.task(job, task) for task in (1, 2, 3)}
    assert {known["JobState"] for known in told.values()} == {"COMPLETED"}
    assert {known["Restarts"] for known in told.values()} == {"1"}
    assert "ended with 137" in logs[1]
    assert "the time was up: queued again" in logs[3]
    assert delivered(slurm.folder / "shared") == plain
    assert (slurm.folder / "shared" / "collection.json").exists()
    counts = json.loads((slurm.folder / "shared" / "batch.json").read_text())["counts"]
    assert counts["skipped"] == len(SIZES)  # the array had left nothing to do


@pytest.mark.slow
def test_an_unusable_scene_ends_its_task_at_once(slurm) -> None:
    (slurm.folder / "text.tif").write_text("not a raster")
    job = slurm.submit("--array=1-1", "--cpus-per-task=1", "--mem=3G", FOLDER / "array.sh", "text.tif", "--out", "bad")
    until(lambda: not slurm.queued(), "the job has ended", PATIENCE)
    told = slurm.task(job, 1)
    assert told["JobState"] == "FAILED"
    assert told["ExitCode"] == "42:0"
    assert told["Restarts"] == "0"


@pytest.mark.slow
def test_workers_as_jobs_of_which_one_is_cancelled_give_the_same_files(slurm, plain) -> None:
    spec = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    spec["arguments"] |= {"job_cpu": 1, "memory": "3GiB", "walltime": "01:00:00", "python": sys.executable}
    spec["arguments"]["job_script_prologue"][0] = "export TILESEG_COMPUTE_THREADS=1"
    spec |= {"workers": 2, "wait": PATIENCE}
    (slurm.folder / "small.yaml").write_text(yaml.safe_dump(spec))
    command = ["tileseg", "batch", "scenes", "--out", "jobs", *OPTIONS, "--cluster", "small.yaml", "--verbose"]
    with (slurm.folder / "jobs.log").open("w") as log:
        run = subprocess.Popen(command, cwd=slurm.folder, env=slurm.environment, stdout=log, stderr=log)
        lines = (slurm.folder / "jobs.log").read_text
        until(lambda: lines().count(": block ") > 6, "some blocks are done", PATIENCE)
        job = slurm.ask("squeue", "-h", "-t", "R", "-o", "%A").splitlines()[0]
        slurm.ask("scancel", job)
        code = run.wait(PATIENCE)
    assert code == 0, lines()
    assert delivered(slurm.folder / "jobs") == plain
    until(lambda: not slurm.queued(), "its jobs were cancelled at the end", PATIENCE)
