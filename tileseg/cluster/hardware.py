"""What this machine has: cores, memory, GPUs, disk. Quick, and without TensorFlow.

Containers see the whole machine in /proc, so the limits of their control group (cgroup v1 and v2) count as well.
Every fact comes from a text that the kernel or the driver gives; the functions that read such a text are pure.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import math
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from tileseg.plan import Precision

COMPUTE_THREADS = "TILESEG_COMPUTE_THREADS"
"""Environment variable of workers on other machines: threads of the network."""

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

_NO_LIMIT = 1 << 60
"""cgroup v1 writes the largest multiple of a page for "no limit"."""
_GPU_FIELDS = "index,uuid,name,memory.total,compute_cap"
_ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor, and how much of it this process may use."""

    model: str
    """As the kernel names it; empty where it does not."""
    cores: int
    """Logical cores that this process may run on: affinity and cgroup quota counted, at least 1."""
    flags: frozenset[str]
    """Instruction sets, in the kernel's spelling (``avx512_bf16``)."""

    @property
    def native_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 in hardware; elsewhere bfloat16 is emulated and slower than float32."""
        return not self.flags.isdisjoint({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True, slots=True)
class MainMemory:
    """Main memory in bytes, as far as this process may use it."""

    total: int
    """Memory of the machine, or the cgroup's limit where that is less."""
    available: int
    """Can be taken now without swapping; page cache that the kernel would give back counts as available."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU, as its driver describes it."""

    index: int
    """In the order of the driver (PCI bus)."""
    uuid: str
    """``GPU-...``; empty where only the kernel module was there to ask."""
    name: str
    memory: int | None
    """Bytes, all of it; None where the driver does not say."""
    compute_capability: tuple[int, int] | None
    """(8, 0) for an A100; None where the driver does not say."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine, seen by one process."""

    cpu: Cpu
    memory: MainMemory
    gpus: tuple[Gpu, ...]
    """GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to this process, in the driver's order."""


def detect() -> Hardware:
    """Look at this machine: some milliseconds, and up to a second where there is a GPU driver to ask."""
    return Hardware(cpu(), memory(), visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))


def default_precision(hardware: Hardware) -> Precision:
    """The fastest precision that the device of a run computes in hardware.

    GPUs: bfloat16 from compute capability 8.0 (Ampere), float16 from 7.0 (Volta), by the weakest of them, since all
    have to give the same answer. CPU: bfloat16 with AVX-512 BF16 or AMX, otherwise float32.
    """
    if not hardware.gpus:
        return "bfloat16" if hardware.cpu.native_bfloat16 else "float32"
    weakest = min(gpu.compute_capability or (0, 0) for gpu in hardware.gpus)
    if weakest >= (8, 0):
        return "bfloat16"
    return "float16" if weakest >= (7, 0) else "float32"


def cpu(proc: Path = PROC, cgroup: Path = CGROUP) -> Cpu:
    """The processor of this machine."""
    model, flags = parse_cpuinfo(_read(proc / "cpuinfo"))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(cgroup, parse_cgroup_paths(_read(proc / "self/cgroup")))
    return Cpu(model, affinity if quota is None else max(1, min(affinity, math.ceil(quota))), flags)


def memory(proc: Path = PROC, cgroup: Path = CGROUP) -> MainMemory:
    """The memory of this machine."""
    machine = psutil.virtual_memory()
    group = memory_limit(cgroup, parse_cgroup_paths(_read(proc / "self/cgroup")))
    if group is None:
        return MainMemory(machine.total, machine.available)
    return MainMemory(min(machine.total, group.total), min(machine.available, group.available))


def gpus(proc: Path = PROC) -> tuple[Gpu, ...]:
    """All NVIDIA GPUs: from nvidia-smi, or (names only) from the kernel module where it is missing or broken."""
    driver = proc / "driver/nvidia/gpus"
    command = shutil.which("nvidia-smi")
    if command is not None:
        query = [command, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
            return parse_nvidia_smi(answer.stdout)
        except (OSError, subprocess.SubprocessError):
            pass  # an old driver does not know a field, a broken one hangs: the kernel module knows the names
    files = sorted(driver.glob("*/information")) if driver.is_dir() else []
    return tuple(parse_gpu_information(index, _read(file)) for index, file in enumerate(files))


def backend_has_cuda() -> bool:
    """Whether the Keras backend could use a GPU: decided without importing it, by the CUDA libraries it would load.

    TensorFlow takes them from packages (``tensorflow[and-cuda]``) or from the system; PyTorch and JAX see to
    themselves.
    """
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return True
    packaged = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.cudnn") is not None
    return packaged or ctypes.util.find_library("cudnn") is not None


def disk_free(folder: Path) -> int:
    """Bytes that this user can still write at ``folder``, or at its nearest parent that exists."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """/proc/cpuinfo -> (model, flags) of its first processor; ARM calls the flags features and names no model."""
    model, flags = "", frozenset[str]()
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                model = value.strip()
            case "flags" | "Features":
                flags = frozenset(value.split())
    return model, flags


def parse_cgroup_paths(text: str) -> dict[str, str]:
    """/proc/self/cgroup -> path per controller (v1); the unified hierarchy (v2) is the controller ``""``."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def cpu_quota(cgroup: Path, paths: dict[str, str]) -> float | None:
    """Cores' worth of time that the process's cgroup and its parents allow, or None without a limit.

    ``cgroup`` is where the hierarchies are mounted, ``paths`` comes from :func:`parse_cgroup_paths`.
    """
    unified = [_share(*_read(folder / "cpu.max").partition(" ")[::2]) for folder in _lineage(cgroup, paths.get(""))]
    separate = [
        _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
        for folder in _lineage(cgroup / "cpu", paths.get("cpu"))
    ]
    return min((quota for quota in unified + separate if quota is not None), default=None)


def memory_limit(cgroup: Path, paths: dict[str, str]) -> MainMemory | None:
    """What the process's cgroup and its parents allow, or None without a limit. Arguments as :func:`cpu_quota`."""
    unified = [
        _limit(folder, "memory.max", "memory.current", "inactive_file") for folder in _lineage(cgroup, paths.get(""))
    ]
    separate = [
        _limit(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for folder in _lineage(cgroup / "memory", paths.get("memory"))
    ]
    found = [limit for limit in unified + separate if limit is not None]
    if not found:
        return None
    return MainMemory(min(limit.total for limit in found), min(limit.available for limit in found))


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The answer to ``--query-gpu=index,uuid,name,memory.total,compute_cap --format=csv,noheader,nounits`` (MiB)."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[0].isdigit():
            index, uuid, name, mebibytes, capability = fields
            size = int(mebibytes) << 20 if mebibytes.isdigit() else None
            found.append(Gpu(int(index), uuid, name, size, _capability(capability)))
    return tuple(found)


def parse_gpu_information(index: int, text: str) -> Gpu:
    """/proc/driver/nvidia/gpus/*/information -> what little it says: a name, perhaps a UUID."""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    uuid = fields.get("GPU UUID", "")
    return Gpu(index, "" if "?" in uuid else uuid, fields.get("Model", "NVIDIA GPU"), None, None)


def visible(found: tuple[Gpu, ...], setting: str | None) -> tuple[Gpu, ...]:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` leaves: indices or starts of UUIDs, up to the first that names none."""
    if setting is None:
        return found
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        matching = [
            gpu for gpu in found if entry == str(gpu.index) or (entry[:4] == "GPU-" and gpu.uuid.startswith(entry))
        ]
        if len(matching) != 1:
            break  # as CUDA reads it: "-1", an empty text or a wrong number hides itself and all after it
        chosen.append(matching[0])
    return tuple(sorted(set(chosen), key=lambda gpu: gpu.index))


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory (RSS) of a process and all its descendants, summed; 0 when it is gone.

    Pages that processes share (libraries, mapped files) count once per process, so the sum is at least what the
    processes take together: good for an upper bound, slightly unjust to many workers.
    """
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # ended since the list was made
    return total


class PeakMemory:
    """Peak of :func:`resident_bytes` while the ``with`` block runs, looked at every ``interval`` seconds by a thread.

    A peak that is shorter than the interval can be missed, so take intervals well below the time of one block. The
    high-water marks that the kernel keeps per process are no substitute: those of different processes do not fall
    together, and they reach back before the block.
    """

    def __init__(self, pid: int | None = None, interval: float = 0.1) -> None:
        self._pid = pid
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self.peak = 0
        """Bytes; grows while the block runs."""

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            begun = time.perf_counter()
            self._look()
            # Finding descendants reads all of /proc: on a node with thousands of processes, look less often.
            pause = max(self._interval, 30 * (time.perf_counter() - begun))

    def _look(self) -> None:
        self.peak = max(self.peak, resident_bytes(self._pid))


def _read(file: Path) -> str:
    """The text of a file of the kernel; empty where there is none (another system, another cgroup version)."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lineage(mount: Path, path: str | None) -> list[Path]:
    """The folder of a cgroup and of its parents up to the mount: limits of all of them hold.

    Inside a container the path may be the host's, which does not exist there; then the mount itself is the group.
    """
    if path is None:
        return []
    group = mount / path.strip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]


def _share(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _limit(folder: Path, limit: str, usage: str, cache: str) -> MainMemory | None:
    total = _read(folder / limit)
    if not total.isdigit() or int(total) >= _NO_LIMIT:
        return None
    statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    used = int(_read(folder / usage) or 0) - int(statistics.get(cache, 0))
    return MainMemory(int(total), min(int(total), max(0, int(total) - used)))


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
