"""The labels of all slices, one behind the other, and what they measure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.card import ClassInfo
from tileseg.errors import TilesegError
from tileseg.labels import NODATA
from tileseg.mosaic import Mosaic
from tileseg.run.names import MOSAIC
from tileseg.scan.series import Stack
from tileseg.window import Window


@dataclass(frozen=True, slots=True)
class Volume:
    """Labels of a stack."""

    stack: Stack
    classes: tuple[ClassInfo, ...]
    labels: npt.NDArray[np.uint8]
    """(slice, row, column); 255 has no data. May lie in a file."""


def gather(stack: Stack, classes: tuple[ClassInfo, ...], folders: Sequence[Path], scratch: Path) -> Volume:
    """Put the labels of finished runs, one for each slice, into one array that lies in a file ``scratch``."""
    count, rows, columns = stack.size
    labels = np.lib.format.open_memmap(scratch, "w+", np.uint8, (count, rows, columns))
    for place, folder in enumerate(folders):
        labels[place] = Mosaic(folder / MOSAIC).read_labels(Window(0, 0, rows, columns))
    return Volume(stack, classes, labels)


def measure(volume: Volume, root: Path) -> dict[str, Any]:
    """Pixels and square millimetres of each class in each slice, and cubic millimetres over all, as JSON values.

    Files are named as seen from ``root``, positions are along the normal of the slices.
    """
    stack = volume.stack
    area = None if stack.pixel is None else stack.pixel[0] * stack.pixel[1]
    totals = np.zeros(len(volume.classes), np.int64)
    slices = []
    for place, (one, labels) in enumerate(zip(stack.slices, volume.labels, strict=True), 1):
        counts = np.bincount(labels.ravel(), minlength=NODATA + 1)[: len(volume.classes)]
        totals += counts
        slices.append(
            {
                "slice": place,
                "file": str(one.file.relative_to(root)) if one.file.is_relative_to(root) else str(one.file),
                "frame": one.frame,
                "position_mm": None if one.along is None else round(one.along, 3),
                "classes": {
                    info.name: _measured(int(count), area_mm2=area)
                    for info, count in zip(volume.classes, counts, strict=True)
                },
            }
        )
    voxel = None if area is None or stack.thickness is None else area * stack.thickness
    return {
        "pixel_spacing_mm": None if stack.pixel is None else list(stack.pixel),
        "slice_distance_mm": stack.distance,
        "slice_thickness_mm": stack.thickness,
        "volumes": {
            info.name: _measured(int(count), volume_mm3=voxel)
            for info, count in zip(volume.classes, totals, strict=True)
        },
        "slices": slices,
    }


def _measured(count: int, **unit: float | None) -> dict[str, float | None]:
    ((name, size),) = unit.items()
    return {"pixels": count, name: None if size is None else round(count * size, 3)}


def as_table(measured: dict[str, Any]) -> str:
    """The measurements of slices as CSV: a line for each slice and class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["slice", "file", "frame", "position_mm", "class", "pixels", "area_mm2"])
    for one in measured["slices"]:
        for name, values in one["classes"].items():
            rows.writerow(
                [
                    one["slice"],
                    one["file"],
                    one["frame"],
                    one["position_mm"],
                    name,
                    values["pixels"],
                    values["area_mm2"],
                ]
            )
    return text.getvalue()


class NoVolume(TilesegError):
    """A stack is not of the kind that a format holds; the message is the reason."""
