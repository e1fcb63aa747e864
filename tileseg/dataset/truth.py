"""What is true of a scene's pixels: labels of whatever kind, opened on the scene's grid."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import shapely
from affine import Affine

from tileseg.dataset.annotations import LABEL, is_annotations
from tileseg.dataset.raster_truth import (
    _COLOR,
    NO_COLOR,
    ColorRaster,
    NoTruth,
    RasterTruth,
    Truth,
    ValueRaster,
    ValueTable,
)
from tileseg.dataset.spec import IGNORE, IGNORE_NAME, VECTORS, DatasetSpec, SceneFiles, is_there
from tileseg.dataset.vector_truth import VectorTruth, _outline, _text, outline_in
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.label_raster import LabelRaster, open_labels
from tileseg.source.raster import RasterScene
from tileseg.source.rescale import Rescale
from tileseg.source.scene import open_scene

_TURNED = "; one of them is turned by a quarter: turn the labels as the image is shown"
_SAME_PLACE = 0.1
"""Pixels: labels whose corners are no further from the image's are on its grid."""


def open_truth(pair: SceneFiles, spec: DatasetSpec, image: Grid, target: Grid, rescale: Rescale) -> Truth:
    """The labels of an image whose own grid is ``image``. Raises InputError in one line."""
    if pair.labels is None:
        return NoTruth()
    path = pair.label_file
    if not is_there(path):
        raise InputError(f"{path}: is not there; expected the labels of {pair.image.name}")
    if path.suffix.lower() in VECTORS:
        truth = _open_vectors(pair, spec, image, target)
        if truth.apart:
            raise InputError(
                f"{path}: none of its polygons lies on {pair.image.name}; is its coordinate reference system right?"
            )
        return truth
    if any(_COLOR.fullmatch(value) for value in pair.reading.label_map):
        raster: ValueRaster = _open_colors(pair)
        values = _values(pair, spec, None)
    else:
        ids = _open_raster(pair)
        raster, values = ids, _values(pair, spec, ids)
    if _same_grid(image, raster.grid, pair):
        return RasterTruth(raster, values, rescale)
    if not _overlap(image, raster.grid):
        raise InputError(f"{path}: does not overlap {pair.image.name}")
    return WarpedTruth(raster, values, target, _is_finer(raster.grid, target))


def _open_colors(pair: SceneFiles) -> ColorRaster:
    scene = open_scene(pair.label_file, expected=3, trust_vrt=pair.reading.trust_vrt)
    listed = frozenset(int(text[1:], 16) for text in pair.reading.label_map if _COLOR.fullmatch(text))
    # Where an alpha band or a mask says what is data, a value that is called nodata is a colour like any other.
    if isinstance(scene, RasterScene) and (scene.alpha is not None or scene.masks):
        return ColorRaster(replace(scene, nodata=(None,) * 3), frozenset())
    return ColorRaster(scene, listed)


def _open_raster(pair: SceneFiles) -> LabelRaster:
    """The raster of ids; where ``label_map`` says what its nodata value means, that is a value like any other."""
    try:
        raster = open_labels(pair.label_file, trust_vrt=pair.reading.trust_vrt)
    except InputError as error:
        if re.search(r"has [34] bands; expected one band", str(error)):
            hint = 'if its colours stand for classes, say so: label_map = { "#ff0000" = "name of a class", ... }'
            raise InputError(f"{error}; {hint}") from error
        raise
    if raster.nodata is None or str(raster.nodata) not in pair.reading.label_map:
        return raster
    return raster.with_nodata_as_label()


def _values(pair: SceneFiles, spec: DatasetSpec, raster: LabelRaster | None) -> ValueTable:
    """What raster values mean: what ``label_map`` says, or else the ids of the classes; nodata and 255 are unknown.

    Without a ``raster`` the values are colours.
    """
    listed = pair.reading.label_map
    meaning = {NO_COLOR: IGNORE} if raster is None else {IGNORE: IGNORE}
    if listed:
        for text, wanted in listed.items():
            if raster is None and not _COLOR.fullmatch(text):
                raise InputError(f"{pair.label_file}: label_map names {text!r} besides colours; expected colours only")
            if raster is not None and not text.lstrip("-").isdigit():
                raise InputError(f"{pair.label_file}: label_map names {text!r}, but the labels are a raster of numbers")
            meaning[int(text) if raster is not None else int(text[1:], 16)] = _id(spec, wanted)
    else:
        meaning |= {i: i for i in range(len(spec.classes))}
    meaning |= dict.fromkeys(spec.ignore, IGNORE)
    hidden = None
    if raster is not None and raster.nodata is not None:
        meaning[raster.nodata] = IGNORE
        hidden = raster.nodata if 0 <= raster.nodata < len(spec.classes) and raster.nodata not in spec.ignore else None
    said = str(IGNORE) in listed or IGNORE in spec.ignore or (raster is not None and raster.nodata == IGNORE)
    assumed = raster is not None and not said
    return ValueTable(
        str(pair.label_file), tuple(sorted(meaning.items())), colors=raster is None, assumed=assumed, hidden=hidden
    )


def _id(spec: DatasetSpec, wanted: int | str) -> int:
    label = spec.id_of(wanted)
    assert label is not None  # the spec has been checked
    return label


def _open_vectors(pair: SceneFiles, spec: DatasetSpec, image: Grid, target: Grid) -> VectorTruth:
    reading = pair.reading
    attribute = reading.attribute
    if attribute is None and reading.class_ is None and is_annotations(pair.label_file):
        attribute = LABEL
    foreground = [info.name for info in spec.classes if not info.background]
    meaning: dict[str, int]
    if attribute is None:
        if reading.class_ is None and len(foreground) != 1:
            raise InputError(
                f"{pair.label_file}: which class its polygons are is not said: give attribute (a column) or class (one "
                f"of {', '.join(foreground)})"
            )
        meaning = {"": _id(spec, reading.class_ or foreground[0])}
    else:
        meaning = {IGNORE_NAME: IGNORE} | {str(i): i for i in range(len(spec.classes))}
        meaning |= {info.name: i for i, info in enumerate(spec.classes)}
        meaning |= {text: _id(spec, wanted) for text, wanted in reading.label_map.items()}
    ignored = {
        name: tuple(_text(v) for v in (value if isinstance(value, tuple) else (value,)))
        for name, value in reading.ignore_where.items()
    }
    try:
        facts = pair.label_file.stat()
    except OSError as error:
        raise InputError(f"{pair.label_file}: cannot be read: {error.strerror or error}") from error
    return VectorTruth(
        path=pair.label_file,
        grid=target,
        layer=reading.layer,
        attribute=attribute,
        meaning=tuple(sorted(meaning.items())),
        ignore_where=tuple(sorted(ignored.items())),
        background=spec.background,
        identity=(facts.st_size, facts.st_mtime_ns),
        name=pair.image.name,
        image=image,
    )


def is_placed(grid: Grid) -> bool:
    """Whether anything says where the pixels lie."""
    return grid.crs_wkt is not None or grid.transform != Affine.identity()


def _same_grid(image: Grid, labels: Grid, pair: SceneFiles) -> bool:
    """Whether pixels are the same. Raises InputError where nothing tells how to bring one to the other."""
    same_size = (image.height, image.width) == (labels.height, labels.width)
    if not (is_placed(image) and is_placed(labels)):
        if not same_size:
            raise InputError(
                f"{pair.label_file}: is {labels.width} x {labels.height} pixels, {pair.image.name} is {image.width} x "
                f"{image.height}, and nothing says where the labels lie; expected the same size, or georeferenced files"
                f"{_TURNED if (image.width, image.height) == (labels.height, labels.width) else ''}"
            )
        return True
    if not same_size:
        return False
    if image.crs is not None and labels.crs is not None and image.crs != labels.crs:
        return False
    back = ~image.transform
    corners = [(0, 0), (labels.width, 0), (0, labels.height)]
    moved = [math.dist(back @ (labels.transform @ corner), corner) for corner in corners]
    return max(moved) <= _SAME_PLACE


def _overlap(image: Grid, labels: Grid) -> bool:
    points = outline_in(image, labels)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        return False
    area = shapely.Polygon(points)
    return bool(area.intersects(shapely.Polygon(_outline(labels))))


def _is_finer(labels: Grid, target: Grid) -> bool:
    """Whether a label's pixel is clearly smaller than the target's."""
    theirs, ours = labels.ground_sample_distance, target.ground_sample_distance
    if theirs is None or ours is None:
        theirs, ours = (math.sqrt(abs(grid.transform.determinant)) for grid in (labels, target))
    return theirs < 0.75 * ours
