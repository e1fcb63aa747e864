"""What tracing hands to joining: complete polygons of a band of rows of a block, and what of it crosses its seams."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tileseg.errors import TilesegError
from tileseg.storage.local import until_whole

Array = npt.NDArray[Any]

_MAGIC = b"TSFRAG2\n"
_ALIGN = 64

TOP, BOTTOM, LEFT, RIGHT = 0, 1, 2, 3
"""The sides of a block, in the order of its strips."""
SIDE_BITS = 26
"""An arc's end on a side is ``side << SIDE_BITS | offset`` (pixels from the side's left or top end) ..."""
PINCH = 1 << (SIDE_BITS + 2)
"""... and one at a pinch is ``PINCH + 2 * pinch + (0 or 1)``."""


@dataclass(frozen=True, slots=True)
class PolygonBatch:
    """Polygons as flat arrays, on the scene's pixel lattice. P polygons, R rings, n corners.

    Rings are not closed (the first corner is not repeated), start at their topmost, then leftmost corner, and have
    their pixels on the right hand (y downwards). A polygon's first ring is its exterior, holes follow by first corner.
    """

    coordinates: Array
    """(n, 2) int32: (x, y) = (column, row) of pixel corners, counted from the scene's outer corner; of polygons whose
    outlines were made regular float64."""
    ring_offsets: Array
    """(R + 1,) int64: ring i has the corners ``ring_offsets[i]:ring_offsets[i + 1]``."""
    polygon_offsets: Array
    """(P + 1,) int64: polygon i has the rings ``polygon_offsets[i]:polygon_offsets[i + 1]``."""
    label: Array
    """(P,) int32: class id."""
    pixels: Array
    """(P,) int64: pixel count."""
    confidence_sum: Array
    """(P,) int64: sum of the pixels' confidence, in units of 1/65535; 0 without confidence."""
    confidence_min: Array
    """(P,) int32: the least of them; 65535 without confidence."""
    disagreement_sum: Array
    """(P,) int64: sum of the pixels' disagreement of views, in units of tileseg.labels.SPREAD_STEP; 0 without."""
    touches_edge: Array
    """(P,) bool: has a pixel on the scene's edge."""
    touches_nodata: Array
    """(P,) bool: has a pixel with a nodata pixel above, below, left or right of it."""
    first_pixel: Array
    """(P,) int64: its first pixel as ``row * scene width + column``."""

    def __len__(self) -> int:
        """Number of polygons."""
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Components:
    """Components that reach an inner border of the block: their parts here. C components, by first pixel."""

    label: Array
    """(C,) int32: class id."""
    pixels: Array
    """(C,) int64."""
    confidence_sum: Array
    """(C,) int64."""
    confidence_min: Array
    """(C,) int32."""
    disagreement_sum: Array
    """(C,) int64."""
    touches_edge: Array
    """(C,) bool."""
    touches_nodata: Array
    """(C,) bool."""
    first_pixel: Array
    """(C,) int64."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A traced band: a block's rows, or some of them. Sizes of arrays follow what it holds, not its pixels.

    Below, "inner border" is a side that other blocks or bands lie beyond.
    """

    complete: PolygonBatch
    """Polygons that no other block can change, by first pixel."""
    components: Components
    """The others, as far as this block knows them. Arrays below name them by their position here."""
    ring_coordinates: Array
    """(n, 2) int32: corners of their rings that are closed already."""
    ring_offsets: Array
    """(R + 1,) int64, into ``ring_coordinates``."""
    component_offsets: Array
    """(C + 1,) int64: component i has the closed rings ``component_offsets[i]:component_offsets[i + 1]``."""
    arc_coordinates: Array
    """(n, 2) int32: corners of boundary pieces that begin and end on inner borders or at open pinches."""
    arc_offsets: Array
    """(A + 1,) int64, into ``arc_coordinates``; an arc may have no corner at all."""
    arc_component: Array
    """(A,) int32."""
    arc_start: Array
    """(A,) int32: where it begins, coded as SIDE_BITS and PINCH say; a pinch corner is the arc's first corner."""
    arc_end: Array
    """(A,) int32: where it ends; the corner of a pinch is not part of the arc that ends there."""
    pinch_component: Array
    """(K, 2) int32: the two components of equal label that meet at a pinch, and may turn out to be one."""
    strip_offsets: Array
    """(5,) int64: runs of the top, bottom, left and right inner border; none on the scene's own edge."""
    strip_starts: Array
    """(S,) int32: first pixel of each run, counted from the side's left or top end."""
    strip_component: Array
    """(S,) int32: component of each run, -1 where the pixels are ignored, -2 where they are nodata."""
    has_confidence: bool
    """Whether the sums of confidence mean anything."""
    has_disagreement: bool
    """Whether those of disagreement do."""
    row_off: int
    """First row in the scene ..."""
    rows: int
    """... and how many."""

    def write_to(self, file: BinaryIO) -> None:
        """Append to a file. Raises OSError."""
        arrays = {".".join(key): np.ascontiguousarray(value) for key, value in _flatten(self)}
        header: list[tuple[str, str, tuple[int, ...], int]] = []
        position = 0
        for name, array in arrays.items():
            header.append((name, array.dtype.str, array.shape, position))
            position += -(-array.nbytes // _ALIGN) * _ALIGN
        facts = {name: getattr(self, name) for name in ("has_confidence", "has_disagreement", "row_off", "rows")}
        text = json.dumps({"arrays": header, "bytes": position, **facts}).encode()
        text += b" " * (-(len(_MAGIC) + 8 + len(text)) % _ALIGN)
        file.write(_MAGIC + len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.data)
            file.write(b"\0" * (-array.nbytes % _ALIGN))

    @staticmethod
    def read_from(data: mmap.mmap, start: int) -> tuple[Fragment, int]:
        """The fragment that begins at a byte, and where the next one begins. Raises ValueError, KeyError."""
        if data[start : start + len(_MAGIC)] != _MAGIC:
            raise ValueError
        start += len(_MAGIC) + 8
        length = int.from_bytes(data[start - 8 : start], "little")
        header = json.loads(data[start : start + length])
        start += length
        arrays: dict[str, Array] = {
            name: np.frombuffer(data, dtype, math.prod(shape), start + position).reshape(shape)
            for name, dtype, shape, position in header["arrays"]
        }
        fragment = Fragment(
            complete=PolygonBatch(**_group(arrays, "complete")),
            components=Components(**_group(arrays, "components")),
            has_confidence=bool(header["has_confidence"]),
            has_disagreement=bool(header["has_disagreement"]),
            row_off=int(header["row_off"]),
            rows=int(header["rows"]),
            **{name: array for name, array in arrays.items() if "." not in name},
        )
        return fragment, start + int(header["bytes"])


def save_fragments(path: Path, fragments: Iterable[Fragment]) -> None:
    """Write the fragments of a block, each as it comes, to a temporary name and rename.

    The same fragments give the same bytes. Raises OSError.
    """
    with until_whole(path) as partial, partial.open("wb") as file:
        for fragment in fragments:
            fragment.write_to(file)
            del fragment  # before the next is traced


def load_fragments(path: Path) -> tuple[Fragment, ...]:
    """Open the saved fragments of a block. Arrays are mapped from the file, read when touched. Raises TilesegError."""
    fragments = []
    try:
        with path.open("rb") as file:
            # Copy-on-write: what is compiled for arrays that may be written to need not be compiled for others.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        start = 0
        while start < len(data):
            fragment, start = Fragment.read_from(data, start)
            fragments.append(fragment)
    except (OSError, ValueError, KeyError) as error:
        raise TilesegError(
            f"{path}: not the polygons of a block (damaged?); remove the file and run the same command again"
        ) from error
    return tuple(fragments)


def _flatten(fragment: Fragment) -> list[tuple[tuple[str, ...], Array]]:
    flat: list[tuple[tuple[str, ...], Array]] = []
    for field in fields(fragment):
        value = getattr(fragment, field.name)
        if isinstance(value, np.ndarray):
            flat.append(((field.name,), value))
        elif not isinstance(value, int):
            flat.extend(((field.name, inner.name), getattr(value, inner.name)) for inner in fields(value))
    return flat


def _group(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix + "."): array for name, array in arrays.items() if name.startswith(prefix + ".")}
