"""What readers of OME-Zarr 0.5 look for: labels in several sizes, how large pixels are, classes and colours.

Source: https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tileseg.card import ClassInfo
from tileseg.grid import Grid

_MICRONS = 1e6


def ome_attributes(grid: Grid, classes: Sequence[ClassInfo], paths: Mapping[int, str]) -> dict[str, Any]:
    """Attributes of the group that holds labels; none for scenes of the ground, whose readers look for others.

    ``paths``: factor of each size, 1 first -> where it lies in the group.
    """
    if grid.crs is None or not grid.crs.is_engineering or grid.pixel_metres is None:
        return {}
    across, down = (metres * _MICRONS for metres in grid.pixel_metres)
    sizes = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [down * factor, across * factor]},
                # Places are those of the middle of pixels.
                {"type": "translation", "translation": [down * (factor - 1) / 2, across * (factor - 1) / 2]},
            ],
        }
        for factor, path in paths.items()
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")]
    colors = [
        {"label-value": i, "rgba": [*(int(info.color[at : at + 2], 16) for at in (1, 3, 5)), 255]}
        for i, info in enumerate(classes)
    ]
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [{"name": "labels", "axes": axes, "datasets": sizes}],
            "image-label": {
                "colors": colors,
                "properties": [{"label-value": i, "class": info.name} for i, info in enumerate(classes)],
            },
        }
    }
