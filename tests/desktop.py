"""Small labels and what makes files of them; and QGIS, which says and draws how it shows files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pyproj import CRS
from rasterio.transform import from_origin

from tileseg.card import ClassInfo
from tileseg.grid import Grid
from tileseg.window import Window

CLASSES = (
    ClassInfo(name="ground", color="#c8b99a", background=True),
    ClassInfo(name="roof & <eaves>", color="#d9544d"),
    ClassInfo(name="water", color="#3f7fbf"),
    ClassInfo(name="never", color="#4f9a4d"),
)
UTM = Grid(60, 90, from_origin(500_000, 4_649_900, 0.5, 0.5), CRS.from_epsg(32633).to_wkt())


def labels() -> npt.NDArray[np.uint8]:
    """A roof above on the left, water below on the right."""
    array = np.zeros((60, 90), np.uint8)
    array[5:20, 10:50] = 1
    array[30:55, 60:85] = 2
    return array


@dataclass(frozen=True)
class Source:
    """Labels and probabilities that are there already."""

    grid: Grid
    array: npt.NDArray[np.uint8]
    nodata: int | None = None

    def read_labels(self, window: Window) -> npt.NDArray[np.uint8]:
        return self.array[window.slices]

    def read_confidence(self, window: Window) -> npt.NDArray[np.uint16]:
        return np.full((window.height, window.width), 50_000, np.uint16)

    def read_disagreement(self, window: Window) -> None:
        del window


def python_with_qgis() -> str:
    """The Python that has QGIS: Debian's python3-qgis belongs to the system's. Skips the test where there is none."""
    python = shutil.which("python3", path=os.defpath)
    asked = python and subprocess.run([python, "-c", "import qgis.core"], capture_output=True, check=False, env={})
    if not asked or asked.returncode:
        pytest.skip("QGIS is not there: apt-get install --no-install-recommends python3-qgis qgis-providers")
    return str(python)


def opened(python: str, pictures: Path, *files: Path) -> dict[str, Any]:
    """What QGIS says of files, each by its name."""
    home = {"HOME": str(pictures), "XDG_RUNTIME_DIR": str(pictures), "QT_QPA_PLATFORM": "offscreen"}
    script = Path(__file__).with_name("in_qgis.py")
    done = subprocess.run(
        [python, script, pictures, *files], capture_output=True, text=True, check=False, env=home, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def picture(pictures: Path, name: str) -> npt.NDArray[np.uint8]:
    """What QGIS drew, (y, x, 3)."""
    with Image.open(pictures / f"{name}.png") as image:
        return np.asarray(image.convert("RGB"))


def at(image: npt.NDArray[np.uint8], row: float, col: float) -> tuple[int, ...]:
    """The colour at a pixel of the labels."""
    height, width = image.shape[:2]
    return tuple(image[int(row / 60 * height), int(col / 90 * width)].tolist())
