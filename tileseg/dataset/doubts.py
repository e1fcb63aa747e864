"""Label rasters that probably mean something else than they say: masks of 0 and 255, classes that are called nodata."""

from __future__ import annotations

import math

import numpy as np

from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.raster_truth import RasterTruth, Truth
from tileseg.dataset.spec import IGNORE, IGNORE_NAME
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.window import tile

_BLOCK = 1024
"""Pixels: side of what is read at once."""


def mask_doubt(scene: LabelledScene) -> str | None:
    """What to say about labels that look like a mask of 0 and 255, of which 255 is not learnt; None: they do not.

    Reads them up to the first other value. Raises InputError.
    """
    truth = scene.truth
    if not isinstance(truth, RasterTruth | WarpedTruth) or not _is_mask(truth):
        return None
    zero = dict(truth.values.meaning).get(0, IGNORE)
    others = [info for i, info in enumerate(scene.classes) if i != zero % IGNORE]
    meant = next((info for info in others if not info.background), others[0])
    # Nodata may be the 0 of a mask, which is then no less background.
    first = IGNORE_NAME if zero == IGNORE and truth.values.hidden != 0 else scene.classes[zero % IGNORE].name
    return (
        f"{truth.raster.path}: has no values but 0 and 255, and 255 means that the class is not known; if it is one, "
        f'say so: label_map = {{ 0 = "{first}", 255 = "{meant.name}" }}'
    )


def _is_mask(truth: RasterTruth | WarpedTruth) -> bool:
    """Whether a label raster has only 0 and 255, as most masks do, and the user does not say what 255 means."""
    found = False
    if not truth.values.assumed:
        return False
    for window in tile(truth.raster.grid.extent, _BLOCK, _BLOCK):
        values = truth.raster.read_labels(window)
        if not ((values == 0) | (values == IGNORE)).all():
            return False
        found = found or bool((values == IGNORE).any())
    return found


def nodata_doubt(scene: LabelledScene) -> str | None:
    """What to say about labels whose nodata value is the id of a class; None: it is none, or no pixel has it.

    Reads the whole raster where it is one. Raises InputError.
    """
    truth = scene.truth
    hidden = _hidden(truth)
    if hidden is None:
        return None
    assert isinstance(truth, RasterTruth | WarpedTruth)
    extent = truth.raster.grid.extent
    blocks = (truth.raster.read_labels(window) for window in tile(extent, _BLOCK, _BLOCK))
    count = sum(int(np.count_nonzero(values == hidden)) for values in blocks)
    if not count:
        return None
    name = scene.classes[hidden].name
    known = {value: scene.classes[label].name for value, label in truth.values.meaning if label != IGNORE}
    listed = ", ".join(f'{value} = "{meant}"' for value, meant in sorted({**known, hidden: name}.items()))
    return (
        f"{truth.raster.path}: calls its value {hidden} nodata, so {percent(count / extent.pixels)} of it are unknown "
        f"and not {name!r}; if they are {name!r}, say so: label_map = {{ {listed} }}"
    )


def _hidden(truth: Truth) -> int | None:
    return truth.values.hidden if isinstance(truth, RasterTruth | WarpedTruth) else None


def percent(share: float) -> str:
    """A share in per cent, with as many digits as say something."""
    if share >= 0.1:
        return f"{100 * share:.0f} %"
    digits = max(1, min(3, -math.floor(math.log10(share)) - 1)) if share > 0 else 0
    return f"{100 * share:.{digits}f} %" if share >= 1e-5 else "< 0.001 %"
