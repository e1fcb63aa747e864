"""``tileseg doctor``: what this machine can do, what is wrong with it, and the remedy."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import tileseg

if TYPE_CHECKING:
    from tileseg.cluster.hardware import Gpu, Hardware, MainMemory

Status = Literal["ok", "warn", "fail"]

GIB = 1 << 30
LEAST_MEMORY = 4 * GIB
LEAST_DISK = 1 * GIB
LEAST_KERAS = (3, 15, 1)
PYTHONS = ((3, 11), (3, 13))
"""First and last version that TensorFlow and tileseg both run on."""

PACKAGES = (
    "keras", "tensorflow", "numpy", "rasterio", "zarr", "dask", "distributed", "shapely", "geopandas",
    "pyogrio", "pyarrow", "pyproj", "numba",
)  # fmt: skip
WRITERS = ("GeoJSON", "GPKG", "FlatGeobuf")
"""Vector drivers that ought to be there; Parquet is written by pyarrow."""

_PROBE_SECONDS = 120.0
_ESSENTIAL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    status: Status
    """``warn``: works, but slower or not for everything; ``fail``: a run would fail."""
    what: str
    """One line."""
    remedy: str = ""
    """What to do; empty when all is well."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What :mod:`tileseg.cli.probe` said about one library."""

    library: str
    facts: Mapping[str, object]
    """Empty when it failed."""
    error: str = ""
    """The last line of the traceback, or how the process ended."""

    def names(self, fact: str) -> tuple[str, ...]:
        """A fact that is a list of names; empty when it is not known."""
        value = self.facts.get(fact)
        return tuple(str(name) for name in value) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that the doctor found out."""

    hardware: Hardware
    precision: str
    versions: Mapping[str, str]
    """Python, packages and the libraries under them; "missing" where one is not installed."""
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(finding.status != "fail" for finding in self.findings)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Say what this machine can do, what is wrong, and the remedy. Exit code 1 when something would make a run fail."""
    diagnosis = diagnose()
    if as_json:
        typer.echo(json.dumps(_plain(diagnosis), indent=2))
    else:
        _print(diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def diagnose() -> Diagnosis:
    """Look at everything: some seconds, for TensorFlow is started once."""
    from tileseg.cluster.hardware import default_precision, detect, disk_free
    from tileseg.source.formats import DRIVERS

    hardware = detect()
    # Without the first two nothing works.
    readers = ("GTiff", "COG", *(driver for driver in DRIVERS if driver != "GTiff"))
    with ThreadPoolExecutor() as pool:
        answers = {
            answer.library: answer for answer in pool.map(ask, ("keras", "rasterio", "pyogrio", "pyproj", "shapely"))
        }
    installed = {name: _version(name) for name in PACKAGES}
    backend = os.environ.get("KERAS_BACKEND", "")
    keras_backend = check_backend(backend, importable=not backend or find_spec(backend.partition(".")[0]) is not None)
    imported = [answer for answer in answers.values() if answer.library != "keras" or keras_backend.status == "ok"]
    findings = (
        check_python(sys.version_info[:2]),
        check_memory(hardware.memory),
        check_disk(disk_free(Path.cwd()), Path.cwd()),
        *(check_installed(name, version) for name, version in installed.items() if version == "missing"),
        check_keras(installed["keras"]),
        keras_backend,
        *(check_import(answer) for answer in imported),
        check_gpus(hardware.gpus, answers["keras"], cpu_only_build=_version("tensorflow-cpu") != "missing"),
        check_precision(hardware),
        check_engines(),
        *check_drivers("rasterio", "read", readers, answers["rasterio"]),
        *check_drivers("pyogrio", "write", WRITERS, answers["pyogrio"]),
        check_gis_paths(os.environ),
        check_folder(Path(tempfile.gettempdir()), "temporary files", "TMPDIR"),
        check_numba_cache(numba_caches(os.environ, Path.home(), Path(tileseg.__file__).parent)),
    )
    below = {
        "keras backend": answers["keras"].facts.get("backend"),
        "GDAL (rasterio)": answers["rasterio"].facts.get("gdal"),
        "GDAL (pyogrio)": answers["pyogrio"].facts.get("gdal"),
        "PROJ": answers["pyproj"].facts.get("proj"),
        "GEOS": answers["shapely"].facts.get("geos"),
    }
    versions = {"python": platform.python_version(), "tileseg": _version("tileseg"), **installed}
    versions |= {name: str(version) for name, version in below.items() if version is not None}
    return Diagnosis(hardware, default_precision(hardware), versions, findings)


def ask(library: str) -> ProbeAnswer:
    """Have one library imported and questioned in a process of its own."""
    # -P: a file in the current folder that is called like a library must not be taken for it.
    command = [sys.executable, "-P", "-m", "tileseg.cli.probe", library]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, env=quiet, check=False)
    except subprocess.TimeoutExpired:
        return ProbeAnswer(library, {}, f"no answer within {_PROBE_SECONDS:.0f} s")
    return read_answer(library, done.returncode, done.stdout, done.stderr)


def read_answer(library: str, code: int, stdout: str, stderr: str) -> ProbeAnswer:
    """What a probe printed -> ProbeAnswer. A negative ``code`` is the signal that ended the process."""
    if code == 0 and stdout.strip():
        facts: dict[str, object] = json.loads(stdout.strip().splitlines()[-1])  # libraries greet on stdout, too
        return ProbeAnswer(library, facts)
    if code < 0:
        return ProbeAnswer(library, {}, f"crashed with signal {-code}")
    lines = stderr.strip().splitlines() or [f"exit code {code}"]
    return ProbeAnswer(library, {}, lines[-1].strip())


def check_python(version: tuple[int, int]) -> Finding:
    """Python is one that TensorFlow has wheels for."""
    (first, last), found = PYTHONS, ".".join(map(str, version))
    if version < first:
        return Finding("fail", f"Python {found} is too old", "install Python 3.11 or newer, and tileseg into it")
    if version > last:
        return Finding("warn", f"Python {found} is newer than any that tileseg was tested with", "use Python 3.13")
    return Finding("ok", f"Python {found}")


def check_memory(memory: MainMemory) -> Finding:
    """MainMemory suffices for the defaults."""
    free, total = memory.available / GIB, memory.total / GIB
    if memory.total < LEAST_MEMORY:
        return Finding(
            "warn",
            f"{total:.1f} GiB of memory in all",
            "4 GiB are needed at the defaults: use --workers 0 and --max-memory, or a larger machine or container",
        )
    if memory.available < LEAST_MEMORY:
        return Finding(
            "warn",
            f"{free:.1f} of {total:.1f} GiB of memory are free",
            "close other programs, or run with --workers 0 and --max-memory",
        )
    return Finding("ok", f"{free:.1f} of {total:.1f} GiB of memory are free")


def check_disk(free: int, folder: Path) -> Finding:
    """There is room for outputs in the current folder."""
    what = f"{free / GIB:.1f} GiB of disk are free at {folder}"
    if free < LEAST_DISK:
        return Finding("warn", what, "make space, or write elsewhere with --out; --dry-run says how much a run needs")
    return Finding("ok", what)


def check_installed(package: str, version: str) -> Finding:
    """A package that tileseg depends on is there."""
    if version == "missing":
        return Finding("fail", f"{package} is not installed", "pip install tileseg")
    return Finding("ok", f"{package} {version}")


def check_keras(version: str) -> Finding:
    """Keras is one that opens model archives safely."""
    least = ".".join(map(str, LEAST_KERAS))
    if version == "missing":
        return Finding("fail", "keras is not installed", f'pip install "keras>={least}"')
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < LEAST_KERAS:
        return Finding("fail", f"keras {version} can be harmed by a crafted model", f'pip install "keras>={least}"')
    return Finding("ok", f"keras {version}")


def check_backend(name: str, *, importable: bool) -> Finding:
    """``KERAS_BACKEND`` (empty: not set) names something that is installed."""
    if not name:
        return Finding("ok", "KERAS_BACKEND is not set")
    if not importable:
        remedy = f"pip install {name}, or unset KERAS_BACKEND to use TensorFlow"
        return Finding("fail", f"KERAS_BACKEND={name}, which is not installed", remedy)
    return Finding("ok", f"KERAS_BACKEND={name}")


def check_import(answer: ProbeAnswer) -> Finding:
    """A library can be imported and answers."""
    if answer.error:
        remedy = (
            f"pip install --force-reinstall {answer.library}; if that does not help, start from a fresh environment"
        )
        return Finding("fail", f"{answer.library} does not work: {answer.error}", remedy)
    return Finding("ok", f"{answer.library} can be imported")


def check_gpus(gpus: tuple[Gpu, ...], keras: ProbeAnswer, *, cpu_only_build: bool) -> Finding:
    """TensorFlow sees the GPUs that are there."""
    if not gpus:
        return Finding("ok", "no NVIDIA GPU: the network runs on the CPU")
    names = ", ".join(gpu.name for gpu in gpus)
    if keras.error:
        return Finding("warn", f"{names}: not known whether it can be used, since keras does not work")
    if keras.facts.get("gpus") is None:
        return Finding("ok", f"{names} (the backend is {keras.facts.get('backend')}: TensorFlow was not asked)")
    seen = len(keras.names("gpus"))
    if seen >= len(gpus):
        return Finding("ok", f"TensorFlow sees {names}")
    remedy = 'pip install "tileseg[gpu]"'
    if cpu_only_build:
        remedy = f"pip uninstall tensorflow-cpu tensorflow, then {remedy}"
    return Finding("warn", f"TensorFlow sees {seen} of {len(gpus)} GPUs ({names}): the others are not used", remedy)


def check_precision(hardware: Hardware) -> Finding:
    """The device computes more than float32 in hardware."""
    from tileseg.cluster.hardware import default_precision

    device = "GPU" if hardware.gpus else "CPU"
    precision = default_precision(hardware)
    if precision == "float32":
        return Finding("ok", f"the {device} computes in float32 (it has nothing faster)")
    return Finding("ok", f"the {device} computes {precision} in hardware; --precision auto uses it")


def check_engines() -> Finding:
    """Which engines can compute networks here, and how the others are had."""
    from tileseg.engine.kinds import ENGINES, how_to_get

    lacking = [how_to_get(name) for name, kind in ENGINES.items() if kind.missing and not kind.only_asked]
    there = [name for name, kind in ENGINES.items() if not kind.missing]
    return Finding("ok", "; ".join([f"engines: {', '.join(there)}", *lacking]))


def check_drivers(library: str, verb: str, wanted: tuple[str, ...], answer: ProbeAnswer) -> tuple[Finding, ...]:
    """GDAL drivers are there, by the answer of the library that brings them; nothing is said when it gave none."""
    if answer.error:
        return ()
    missing = [name for name in wanted if name not in answer.names("drivers")]
    if not missing:
        return (Finding("ok", f"{library} can {verb} {', '.join(wanted)}"),)
    status: Status = "fail" if set(missing) & set(wanted[:_ESSENTIAL]) else "warn"
    remedy = (
        f"pip install --force-reinstall --only-binary=:all: {library} (its own wheel brings GDAL with these drivers)"
    )
    return (Finding(status, f"{library} cannot {verb} {', '.join(missing)}", remedy),)


def check_gis_paths(environment: Mapping[str, str]) -> Finding:
    """No variable makes the wheels' GDAL and PROJ read the data files of another installation."""
    names = [name for name in ("GDAL_DATA", "PROJ_LIB", "PROJ_DATA", "GDAL_DRIVER_PATH") if environment.get(name)]
    if names:
        what = f"{' and '.join(names)} may point to another GDAL or PROJ than that of the installed wheels"
        return Finding("warn", what, f"unset {' '.join(names)}, unless GDAL was installed by conda or built by you")
    return Finding("ok", "GDAL and PROJ use their own data files")


def check_folder(folder: Path, purpose: str, variable: str) -> Finding:
    """Files can be made in a folder."""
    problem = _unwritable(folder)
    if problem:
        return Finding("fail", f"{folder} ({purpose}): {problem}", f"set {variable} to a folder that you can write to")
    return Finding("ok", f"{folder} can be written to ({purpose})")


def numba_caches(environment: Mapping[str, str], home: Path, package: Path) -> tuple[Path, ...]:
    """Where numba may keep compiled functions, in the order in which it tries: its variable, the package, the user."""
    if environment.get("NUMBA_CACHE_DIR"):
        return (Path(environment["NUMBA_CACHE_DIR"]),)
    user = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "numba"
    return (package, user)


def check_numba_cache(folders: Iterable[Path]) -> Finding:
    """Numba can keep what it compiled: without any place for it, every process compiles anew."""
    tried = []
    for folder in folders:
        # Numba makes missing folders itself, so the nearest that exists decides.
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not _unwritable(existing):
            return Finding("ok", f"numba keeps compiled functions at {folder}")
        tried.append(str(folder))
    what = (
        f"numba cannot keep compiled functions ({' and '.join(tried)} cannot be written to): "
        "every run compiles them anew, some twenty seconds"
    )
    return Finding("warn", what, "set NUMBA_CACHE_DIR to a folder that you can write to")


def _unwritable(folder: Path) -> str:
    """Why no file can be made in ``folder``; empty when one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _plain(diagnosis: Diagnosis) -> dict[str, object]:
    hardware = asdict(diagnosis.hardware)
    hardware["cpu"]["flags"] = sorted(diagnosis.hardware.cpu.flags)
    hardware["cpu"]["native_bfloat16"] = diagnosis.hardware.cpu.native_bfloat16
    return {
        "healthy": diagnosis.healthy,
        "hardware": hardware,
        "precision": diagnosis.precision,
        "versions": dict(diagnosis.versions),
        "findings": [asdict(finding) for finding in diagnosis.findings],
    }


def _print(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    hardware = diagnosis.hardware
    facts = Table.grid(padding=(0, 2))
    vectors = sorted(hardware.cpu.flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd"})
    facts.add_row("processor", escape(f"{hardware.cpu.model or platform.machine()}, {hardware.cpu.cores} cores for us"))
    facts.add_row("instructions", ", ".join(vectors) or "not known")
    for gpu in hardware.gpus:
        size = "" if gpu.memory is None else f", {gpu.memory / GIB:.0f} GiB"
        capability = (
            "" if gpu.compute_capability is None else ", compute capability {}.{}".format(*gpu.compute_capability)
        )
        facts.add_row(f"GPU {gpu.index}", escape(f"{gpu.name}{size}{capability}"))
    for name, version in diagnosis.versions.items():
        facts.add_row(escape(name), escape(version))
    console.print(facts)
    console.print()
    marks = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    for finding in diagnosis.findings:
        console.print(f"{marks[finding.status]}  {escape(finding.what)}")
        if finding.remedy:
            console.print(f"      [bold]->[/] {escape(finding.remedy)}")
    console.print()
    failed = sum(finding.status == "fail" for finding in diagnosis.findings)
    warned = sum(finding.status == "warn" for finding in diagnosis.findings)
    console.print("All is well." if failed + warned == 0 else f"{failed} to repair, {warned} to know about.")
