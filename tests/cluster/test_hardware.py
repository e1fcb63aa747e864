"""The texts of the kernel and of the driver, as literals, and small fake trees of control groups."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileseg.cluster.hardware import (
    Cpu,
    Gpu,
    Hardware,
    MainMemory,
    PeakMemory,
    cpu,
    cpu_quota,
    default_precision,
    detect,
    disk_free,
    gpus,
    memory,
    memory_limit,
    parse_cgroup_paths,
    parse_cpuinfo,
    parse_gpu_information,
    parse_nvidia_smi,
    resident_bytes,
    visible,
)

GIB = 1 << 30

X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: something else
flags\t\t: fpu
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd bf16 i8mm
CPU implementer\t: 0x41
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_cpuinfo_of_x86_is_that_of_the_first_processor() -> None:
    model, flags = parse_cpuinfo(X86)
    assert model == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert flags == {"fpu", "sse", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}


def test_cpuinfo_of_arm_calls_them_features_and_names_no_model() -> None:
    assert parse_cpuinfo(ARM) == ("", {"fp", "asimd", "bf16", "i8mm"})


def test_no_cpuinfo_gives_no_flags() -> None:
    assert parse_cpuinfo("") == ("", frozenset())


@pytest.mark.parametrize(
    ("flags", "native"),
    [({"avx512_bf16"}, True), ({"amx_bf16", "sse"}, True), ({"avx512f", "amx_tile"}, False), (set(), False)],
)
def test_native_bfloat16_needs_an_instruction_that_multiplies_it(flags: set[str], native: bool) -> None:
    assert Cpu("", 2, frozenset(flags)).native_bfloat16 is native


def test_cgroup_paths_of_both_versions() -> None:
    assert parse_cgroup_paths("0::/user.slice/job.scope\n") == {"": "/user.slice/job.scope"}
    assert parse_cgroup_paths("5:cpu,cpuacct:/a\n4:memory:/docker/f00:1\n1:name=systemd:/\n0::/") == {
        "cpu": "/a",
        "cpuacct": "/a",
        "memory": "/docker/f00:1",
        "name=systemd": "/",
        "": "/",
    }
    assert parse_cgroup_paths("") == {}


def test_the_tightest_quota_of_the_unified_hierarchy_holds(tmp_path: Path) -> None:
    root = tree(tmp_path, {"slice/cpu.max": "150000 100000", "slice/job/cpu.max": "400000 100000"})
    assert cpu_quota(root, {"": "/slice/job"}) == 1.5


def test_no_quota(tmp_path: Path) -> None:
    root = tree(tmp_path, {"job/cpu.max": "max 100000", "cpu/job/cpu.cfs_quota_us": "-1"})
    tree(root, {"cpu/job/cpu.cfs_period_us": "100000"})
    assert cpu_quota(root, {"": "/job", "cpu": "/job"}) is None
    assert cpu_quota(root, {}) is None


def test_quota_of_version_1_with_a_path_that_only_the_host_knows(tmp_path: Path) -> None:
    root = tree(tmp_path, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"})
    assert cpu_quota(root, {"cpu": "/docker/0123"}) == 3.0


def test_memory_of_version_2_counts_the_page_cache_as_available(tmp_path: Path) -> None:
    files = {
        "job/memory.max": str(8 * GIB),
        "job/memory.current": str(6 * GIB),
        "job/memory.stat": f"anon {3 * GIB}\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}",
    }
    assert memory_limit(tree(tmp_path, files), {"": "/job"}) == MainMemory(8 * GIB, 4 * GIB)


def test_memory_of_version_1_and_of_its_tighter_parent(tmp_path: Path) -> None:
    files = {
        "memory/limit/memory.limit_in_bytes": str(5 * GIB),
        "memory/limit/memory.usage_in_bytes": str(4 * GIB),
        "memory/limit/memory.stat": f"cache 1\ntotal_inactive_file {GIB}",
        "memory/limit/job/memory.limit_in_bytes": "9223372036854771712",
        "memory/limit/job/memory.usage_in_bytes": "1",
    }
    assert memory_limit(tree(tmp_path, files), {"memory": "/limit/job", "": "/"}) == MainMemory(5 * GIB, 2 * GIB)


def test_memory_available_is_never_negative(tmp_path: Path) -> None:
    files = {"memory.max": "1000", "memory.current": "1200"}
    assert memory_limit(tree(tmp_path, files), {"": "/"}) == MainMemory(1000, 0)


def test_no_memory_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, {"memory.max": "max", "memory/memory.limit_in_bytes": "9223372036854771712"})
    assert memory_limit(root, {"": "/", "memory": "/"}) is None


def test_cores_are_limited_by_the_quota_and_never_none(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {"cpuinfo": X86, "self/cgroup": "0::/"})
    tenth = tree(tmp_path / "cgroup", {"cpu.max": "10000 100000"})
    assert cpu(proc, tenth).cores == 1
    assert cpu(proc, tmp_path / "missing").cores == len(os.sched_getaffinity(0))


def test_memory_is_that_of_the_machine_or_the_group_whichever_is_less(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {"self/cgroup": "0::/"})
    small = tree(tmp_path / "cgroup", {"memory.max": str(1 << 20), "memory.current": "4096"})
    assert memory(proc, small) == MainMemory(1 << 20, (1 << 20) - 4096)
    whole = memory(proc, tmp_path / "missing")
    assert 0 < whole.available <= whole.total


def test_nvidia_smi() -> None:
    text = (
        "0, GPU-4a6e, NVIDIA H200, 143771, 9.0\n"
        "1, GPU-77b1, Tesla V100-SXM2-16GB, 16384, 7.0\n"
        "2, GPU-0c0c, NVIDIA GB10, [N/A], [N/A]\n"
    )
    assert parse_nvidia_smi(text) == (
        Gpu(0, "GPU-4a6e", "NVIDIA H200", 143771 << 20, (9, 0)),
        Gpu(1, "GPU-77b1", "Tesla V100-SXM2-16GB", 16384 << 20, (7, 0)),
        Gpu(2, "GPU-0c0c", "NVIDIA GB10", None, None),
    )


@pytest.mark.parametrize("text", ["", "No devices were found\n", "NVIDIA-SMI has failed because it couldn't ...\n"])
def test_nvidia_smi_without_a_gpu(text: str) -> None:
    assert parse_nvidia_smi(text) == ()


@given(st.text())
def test_nothing_that_nvidia_smi_may_say_is_an_error(text: str) -> None:
    assert all(gpu.index >= 0 for gpu in parse_nvidia_smi(text))


def test_kernel_module_knows_names_only() -> None:
    text = "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 42\nGPU UUID: \t GPU-????????-????\nBus Type: \t PCIe\n"
    assert parse_gpu_information(3, text) == Gpu(3, "", "NVIDIA A100-SXM4-40GB", None, None)


def test_gpus_from_the_kernel_module_in_the_order_of_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi on it
    files = {f"driver/nvidia/gpus/0000:{bus}:00.0/information": f"Model: {bus}" for bus in ("81", "07")}
    assert [gpu.name for gpu in gpus(tree(tmp_path, files))] == ["07", "81"]
    assert gpus(tmp_path / "missing") == ()


def test_a_failing_nvidia_smi_leaves_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'Field \"compute_cap\" is not a valid field to query.'\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    proc = tree(tmp_path, {"driver/nvidia/gpus/0000:07:00.0/information": "Model: Tesla K80"})
    assert gpus(proc) == (Gpu(0, "", "Tesla K80", None, None),)


A, B, C = (Gpu(i, f"GPU-{name}", name, GIB, (8, 0)) for i, name in enumerate(["aa", "ab", "cc"]))


@pytest.mark.parametrize(
    ("setting", "left"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("-1", ()),
        ("2,0", (A, C)),
        ("1,-1,2", (B,)),
        ("7,0", ()),
        ("GPU-c", (C,)),
        ("GPU-a", ()),  # names two
        ("GPU-ab, 0", (A, B)),
    ],
)
def test_cuda_visible_devices(setting: str | None, left: tuple[Gpu, ...]) -> None:
    assert visible((A, B, C), setting) == left


def machine(flags: set[str], *capabilities: tuple[int, int] | None) -> Hardware:
    found = tuple(Gpu(i, "", "", None, capability) for i, capability in enumerate(capabilities))
    return Hardware(Cpu("", 2, frozenset(flags)), MainMemory(GIB, GIB), found)


@pytest.mark.parametrize(
    ("hardware", "precision"),
    [
        (machine(set()), "float32"),
        (machine({"avx512_bf16"}), "bfloat16"),
        (machine(set(), (8, 0)), "bfloat16"),
        (machine(set(), (9, 0), (8, 6)), "bfloat16"),
        (machine({"amx_bf16"}, (7, 5)), "float16"),
        (machine(set(), (9, 0), (7, 0)), "float16"),
        (machine({"amx_bf16"}, (6, 1)), "float32"),
        (machine({"amx_bf16"}, None), "float32"),
        (machine(set(), (9, 0), None), "float32"),
        (machine(set(), (10, 0)), "bfloat16"),
    ],
)
def test_default_precision(hardware: Hardware, precision: str) -> None:
    assert default_precision(hardware) == precision


def test_this_machine() -> None:
    found = detect()
    assert 1 <= found.cpu.cores <= (os.cpu_count() or 1)
    assert 0 < found.memory.available <= found.memory.total


def test_disk_free_of_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert disk_free(tmp_path / "not" / "yet") > 0


def test_resident_bytes_counts_children_and_peak_remembers_them() -> None:
    taken = 64 << 20
    child = f"data = b'x' * {taken}; print(flush=True); input()"
    with PeakMemory(interval=0.01) as watch:
        before = watch.peak
        with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            together = resident_bytes()
            alone = resident_bytes(process.pid)
            process.communicate(b"\n")
    assert alone >= taken
    assert together >= before + taken // 2  # half: this process may give some of its own back meanwhile
    assert watch.peak >= alone
    assert resident_bytes(process.pid) == 0


def test_a_peak_between_two_looks_is_seen_when_it_lasts() -> None:
    with PeakMemory(interval=0.005) as watch:
        before = watch.peak
        data = bytearray(96 << 20)
        data[::4096] = b"x" * len(data[::4096])
        for _ in range(1000):  # the thread looks again within milliseconds
            if watch.peak >= before + (64 << 20):
                break
            time.sleep(0.01)
        del data
    assert watch.peak >= before + (64 << 20)


def test_it_needs_no_tensorflow() -> None:
    code = (
        "import sys, tileseg.cluster.hardware as h; h.detect();"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
