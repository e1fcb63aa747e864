"""Polygons of annotation tools, in pixels of their image: LabelMe's files and COCO's.

In both, (0, 0) is the upper left corner of the first pixel, and its centre is (0.5, 0.5).
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from affine import Affine
from PIL import Image, UnidentifiedImageError

from tileseg.errors import InputError

LABEL = "label"
"""Column of the class that somebody drew."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """What is drawn on one image."""

    size: tuple[int, int]
    """Rows and columns of the image that it was drawn on."""
    shapes: npt.NDArray[Any]
    """Polygons (n,) in (column, row)."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Values (n,) by name: ``label``, and what else the tool keeps of a shape; None where a shape has none."""


def is_annotations(path: Path) -> bool:
    """Whether a file is one of annotations, and no GeoJSON. Raises InputError where it cannot be read."""
    return path.suffix.lower() == ".json" and _kind(_load(path)) is not None


def read_annotations(path: Path, image: str) -> Annotations:
    """What is drawn on an image (the name of its file). Raises InputError in one line."""
    values = _load(path)
    try:
        if _kind(values) == "labelme":
            size, drawn = (values["imageHeight"], values["imageWidth"]), list(_labelme(path, values))
        else:
            entry = _coco_image(path, values, image)
            size, drawn = (entry["height"], entry["width"]), list(_coco(path, values, entry["id"]))
        size = int(size[0]), int(size[1])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, shapely.errors.ShapelyError) as error:
        raise InputError(f"{path}: is damaged: {type(error).__name__} {error}") from error
    names = dict.fromkeys([LABEL, *(name for _, row in drawn for name in row)])
    columns = {name: np.array([row.get(name) for _, row in drawn], object) for name in names}
    shapes = np.array([shape for shape, _ in drawn], object)
    return Annotations(size, shapes, columns)


def _load(path: Path) -> Any:
    """What a file holds; None where it is no JSON."""
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _read(path, (facts.st_size, facts.st_mtime_ns))


@functools.lru_cache(maxsize=4)  # one file of COCO may be of thousands of images
def _read(path: Path, _stamp: tuple[int, int]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads it as polygons says what is wrong


def _kind(values: Any) -> str | None:
    if not isinstance(values, dict):
        return None
    if isinstance(values.get("shapes"), list) and "imageWidth" in values and "imageHeight" in values:
        return "labelme"
    lists = ("images", "annotations", "categories")
    return "coco" if all(isinstance(values.get(name), list) for name in lists) else None


def _labelme(path: Path, values: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    for number, shape in enumerate(values["shapes"], 1):
        kind, points = shape.get("shape_type") or "polygon", np.asarray(shape["points"], np.float64).reshape(-1, 2)
        match kind:
            case "polygon":
                drawn = shapely.Polygon(points)
            case "rectangle":
                drawn = shapely.box(*points.min(axis=0), *points.max(axis=0))
            case "circle":
                drawn = shapely.Point(points[0]).buffer(math.dist(*points), quad_segs=32)
            case "mask":
                drawn = _traced(_picture(path, number, shape["mask"]), *points[0])
            case _:
                raise InputError(
                    f"{path}: its shape {number} is a {kind}, which covers no area; expected polygons, rectangles, "
                    "circles or masks"
                )
        yield drawn, {**(shape.get("flags") or {}), "group_id": shape.get("group_id"), LABEL: str(shape["label"])}


def _picture(path: Path, number: int, text: str) -> npt.NDArray[np.bool_]:
    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True)))).astype(bool)
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: the mask of its shape {number} is damaged: {error}") from error


def _coco_image(path: Path, values: dict[str, Any], image: str) -> dict[str, Any]:
    """The entry of an image, by the name of its file, or by that without ending where there is one."""
    names = {Path(str(entry["file_name"])).name: entry for entry in values["images"]}
    if image in names:
        return dict(names[image])
    stems = [entry for name, entry in names.items() if Path(name).stem == Path(image).stem]
    if len(stems) == 1:
        return dict(stems[0])
    raise InputError(f"{path}: has no image called {image}; it has {', '.join(list(names)[:8]) or 'none'}")


def _coco(path: Path, values: dict[str, Any], image: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    categories = {category["id"]: str(category["name"]) for category in values["categories"]}
    for found in values["annotations"]:
        if found["image_id"] != image:
            continue
        segments, name = found.get("segmentation"), found.get("id")
        if isinstance(segments, dict):
            drawn = _traced(_decoded(path, name, segments), 0, 0)
        elif segments:
            # Parts of one object; rings may be listed twice, or lie in each other.
            drawn = shapely.union_all(
                [shapely.make_valid(shapely.Polygon(np.reshape(ring, (-1, 2)))) for ring in segments if len(ring) >= 6]
            )
        else:
            left, top, width, height = found["bbox"]
            raise InputError(
                f"{path}: its annotation {name} (a box of {width:g} x {height:g} at {left:g}, {top:g}) has no outline; "
                "expected a segmentation"
            )
        yield drawn, {
            **(found.get("attributes") or {}), "iscrowd": int(found.get("iscrowd", 0)),
            LABEL: categories[found["category_id"]],
        }  # fmt: skip


def _decoded(path: Path, name: Any, runs: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """A mask of runs of zeros and ones, by columns."""
    height, width = map(int, runs["size"])
    counts = runs["counts"]
    if isinstance(counts, str):
        try:
            from pycocotools import mask
        except ModuleNotFoundError as error:
            raise InputError(
                f'{path}: its annotation {name} is a compressed mask: pip install "tileseg[coco]", or write polygons'
            ) from error
        return np.asarray(mask.decode({"size": [height, width], "counts": counts.encode()})).astype(bool)
    lengths = np.asarray(counts, np.int64)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise InputError(
            f"{path}: the mask of its annotation {name} has {lengths.sum()} pixels, not {height} x {width}"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(width, height).T


def _traced(mask: npt.NDArray[np.bool_], left: float, top: float) -> Any:
    """The outline of a mask whose upper left pixel begins at (left, top)."""
    traced = rasterio.features.shapes(
        mask.astype(np.uint8), mask=mask, transform=Affine.translation(round(float(left)), round(float(top)))
    )
    return shapely.union_all([shapely.geometry.shape(outline) for outline, _ in traced])
