"""An output disk that is full, at any moment of a run: one line, nothing lost, and the same command goes on."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import save_tiny_onnx, smooth_noise, write_scene
from faults.bed import TIMES, Bed, Process, digest, records, snapshot

from tileseg.errors import TilesegError
from tileseg.run.scene import run
from tileseg.spec import RunSpec
from tileseg.storage.lease import hold


def mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A disk of a few KiB."""
    folder.mkdir()
    if not (sys.platform == "linux" and os.geteuid() == 0 and mount(folder, f"size={kib}k")):
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        # Lazily: GDAL keeps a GeoPackage open that it could not finish.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def space(folder: Path) -> int:
    """KiB that a folder takes."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return sum(-(-p.stat().st_size // 4096) * 4 for p in files) + 4 * len(files)


def spec(folder: Path, out: Path) -> RunSpec:
    return RunSpec.parse(
        {"scene": folder / "scene.tif", "model": str(folder / "tiny"), "out": out, "block": 128, "workers": 0,
         "precision": "float32", "formats": "geojson,gpkg"}
    )  # fmt: skip


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bed")
    save_tiny_onnx(folder / "tiny")
    write_scene(folder / "scene.tif", smooth_noise(300, 500, 3))
    run(spec(folder, folder / "undisturbed"))
    return folder


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7, 0.8, 0.9])
def test_full_at_any_moment(bed, tmp_path, share) -> None:
    with small_disk(tmp_path / "disk", 20 + int(share * space(bed / "undisturbed"))) as disk:
        with pytest.raises((TilesegError, OSError)) as caught:
            run(spec(bed, disk / "run"))
        if isinstance(caught.value, TilesegError):
            assert caught.value.exit_code == 1
            assert "disk" in str(caught.value) or "space" in str(caught.value)
        else:
            assert caught.value.errno == errno.ENOSPC
        before = records(disk / "run")
        assert not (disk / "run" / "summary.json").exists()
        assert mount(disk, "remount,size=64m")
        report = run(spec(bed, disk / "run"))
        assert report.computed == report.blocks - len(before)
        assert {i: facts for i, facts in records(disk / "run").items() if i in before} == before
        assert digest(disk / "run") == digest(bed / "undisturbed")


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(1024))
    return disk / "filler"


def test_a_full_disk_leaves_no_lease_to_wait_for(tmp_path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk / "state").mkdir()
        filler = fill(disk)
        with pytest.raises(OSError, match="No space left"), hold(disk / "state"):
            pass
        filler.unlink()
        with hold(disk / "state"):
            filler = fill(disk)  # so at the end it cannot say that it is done
        filler.unlink()
        with hold(disk / "state"):
            pass


@pytest.mark.faults
@pytest.mark.parametrize("batch", [False, True], ids=["run", "batch"])
def test_full_disk_of_processes(tmp_path, tally, batch) -> None:
    row = tally(
        "the disk is full" + " (batch)" * batch,
        f"a tmpfs of 5 to 95 % of what `tileseg {'batch' if batch else 'run'}` needs; enlarged, then the same command",
    )
    bed = Bed.make(tmp_path, scenes=2 if batch else 1)
    names = bed.scenes
    needed = sum(space(bed.folder / "undisturbed" / f"{name}.tileseg") for name in names)
    for i in range(TIMES):
        share = 0.05 + 0.9 * i / max(1, TIMES - 1)
        with small_disk(tmp_path / f"disk{i}", 20 + int(share * needed)) as disk:
            out = disk / "out"
            folders = {name: out / f"{name}.tileseg" if batch else out for name in names}

            def begin(out: Path = out) -> Process:
                return bed.batch(out, "--retries", "0") if batch else bed.run(out)

            done = bed.finish(begin(), row)
            row.times += 1
            row.tell(done)
            assert done.code == 1, done.stderr
            assert "Traceback" not in done.stderr
            known = {name: [snapshot(folder)] for name, folder in folders.items()}
            assert mount(disk, "remount,size=64m")
            done = bed.finish(begin(), row)
            assert done.code == 0, done.stderr
            for name, folder in folders.items():
                bed.compare(folder, row, name, known[name])
    row.check(4 * len(names) * row.times)  # each run ends by itself
