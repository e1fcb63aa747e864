"""A Slurm of one node, in a folder of its own: no systemd, no cgroups, no other Slurm is touched."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
CPUS = 4
"""What the node says it has: so many small jobs run at once, however many processors there are."""

_CONFIG = """
ClusterName=onenode
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again begins no sooner than this many seconds later.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed (Debian: slurm-wlm, munge)."""
    return [name for name in PROGRAMS if _program(name) is None]


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Run it in ``folder`` (a short path: sockets lie there); gives the environment for commands that talk to it."""
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = _CONFIG.format(
        host=host, controller_port=_free_port(), node_port=_free_port(), folder=folder, cpus=CPUS,
        user=psutil.Process().username(), memory=int(psutil.virtual_memory().total * 0.9) >> 20,
    )  # fmt: skip
    (folder / "slurm.conf").write_text(config, encoding="utf-8")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")}
    with ExitStack() as stack:
        for program, *arguments in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge.values()],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", host],
        ):
            output = stack.enter_context((folder / f"{program}.out").open("w"))
            found = _program(program)
            assert found is not None
            daemon = subprocess.Popen([found, *arguments], env=environment, stdout=output, stderr=output)
            stack.callback(_end, daemon)
            if program == "munged":
                _wait_for((folder / "munge.socket").exists, "munged listens", folder)
        _wait_for(lambda: "idle" in _asked(environment, "sinfo", "-h", "-o", "%t"), "the node is there", folder)
        stack.callback(_asked, environment, "scancel", f"--user={psutil.Process().username()}")
        yield environment


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _asked(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait_for(condition, what: str, folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log")))
            raise AssertionError(f"not within {seconds:.0f} s: {what}\n{logs}")
        time.sleep(0.2)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
