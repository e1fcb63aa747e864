"""Many files as one scene on one grid: folders, patterns, lists and indexes of tiles."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import shapely

from tileseg.choices import OnTop
from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.source.common_grid import anchor_of, lattices, same_words
from tileseg.source.header import MOST_PIXELS
from tileseg.source.lattice import NOBODY, Owner, Placed, boxes_of, common_dtype, lattice_of
from tileseg.source.layer import Layer, layers_on, nothing
from tileseg.source.protocol import Mask, Pixels, ReadRequest
from tileseg.source.tile_headers import Header, read_headers
from tileseg.source.tile_list import tiles_of
from tileseg.storage.place import Named
from tileseg.window import Window

_SPARSE = 0.1
"""Share of a scene that lies in files below which they may be no tiles of one image."""


@dataclass(frozen=True, eq=False)
class ManyFiles:
    """Files that together are one scene: a :class:`tileseg.source.protocol.PixelSource`.

    A window reads the files that lie in it and no others. Pickled as what it was opened from: a worker reads the
    headers again, once, and finds the same files or refuses.
    """

    named: Named
    wanted: ReadRequest
    layers: tuple[Layer, ...]
    """Files by the lattice that they lie on."""
    grid: Grid
    identity: str
    """Digest of which files, in which order, where, and of what each of them depends on."""
    notes: tuple[str, ...]

    @property
    def path(self) -> str:
        """As the user named them."""
        return str(self.named)

    @property
    def storage(self) -> str:
        """The files, not the name."""
        return f"tiles {self.identity}"

    @property
    def bands(self) -> tuple[int, ...]:
        """Those that are read of each file, numbered as the scene has them."""
        return tuple(range(1, self.layers[0].base.bands + 1))

    @property
    def dtype(self) -> str:
        """A type that holds the values of all files."""
        return common_dtype(layer.base.dtype for layer in self.layers)

    @property
    def palette(self) -> bool:
        """Whether numbers of colours are read as red, green, blue."""
        return any(placed.source.palette for placed in self._files)

    @property
    def has_gaps(self) -> bool:
        """Whether pixels without data may occur: in a file, or where there is none."""
        warped = any(layer.warp is not None for layer in self.layers)
        return warped or self.covered < 1 or any(placed.source.has_gaps for placed in self._files)

    @property
    def covered(self) -> float:
        """Share of the scene that lies in a file; of those that are warped, about."""
        pixels = self.grid.extent.pixels
        if len(self.layers) == 1 and self.layers[0].window == self.grid.extent:
            return self.layers[0].base.covered
        return min(1.0, sum(layer.base.covered * layer.window.pixels for layer in self.layers) / pixels)

    @property
    def _files(self) -> Iterator[Placed]:
        return (placed for layer in self.layers for placed in layer.base.files)

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band), C-contiguous, and valid (y, x)."""
        self._check(window)
        pixels, owner = self._read(window)
        valid = owner != NOBODY
        if fill is not None and not valid.all():
            pixels[~valid] = np.asarray(fill, pixels.dtype)
        return pixels, valid

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at."""
        self._check(window)
        pixels, owner = nothing(shape, len(self.bands), self.dtype)
        for layer, part in self._within(window):
            rows, cols = (
                range(-(-(start - first) * count // size), -(-(stop - first) * count // size))
                for start, stop, first, count, size in (
                    (part.row_off, part.row_stop, window.row_off, shape[0], window.height),
                    (part.col_off, part.col_stop, window.col_off, shape[1], window.width),
                )
            )
            if rows and cols:
                here = slice(rows.start, rows.stop), slice(cols.start, cols.stop)
                _lay(pixels[here], owner[here], *layer.read_thinned(part, (len(rows), len(cols))))
        return pixels, owner != NOBODY

    def _read(self, window: Window) -> tuple[Pixels, Owner]:
        """Of each pixel, what the file of the lowest rank has, and its rank."""
        found = [(layer, part) for layer, part in self._within(window)]
        if len(found) == 1 and found[0][1] == window:
            pixels, owner = found[0][0].read(window)
            return pixels.astype(self.dtype, copy=False), owner
        pixels, owner = nothing((window.height, window.width), len(self.bands), self.dtype)
        for layer, part in found:
            here = part.relative_to(window).slices
            _lay(pixels[here], owner[here], *layer.read(part))
        return pixels, owner

    def _within(self, window: Window) -> Iterator[tuple[Layer, Window]]:
        """The layers in a window, each with its part of it."""
        box = shapely.box(window.col_off, window.row_off, window.col_stop, window.row_stop)
        for index in sorted(self._tree.query(box).tolist()):
            part = self.layers[index].window.intersection(window)
            if part is not None:
                yield self.layers[index], part

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(boxes_of([layer.window for layer in self.layers]))

    def _check(self, window: Window) -> None:
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene of {self.grid.height} x {self.grid.width} pixels")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManyFiles) and (self.identity, self.wanted) == (other.identity, other.wanted)

    def __hash__(self) -> int:
        return hash(self.identity)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.named, self.wanted, self.identity)


@lru_cache(maxsize=4)
def _again(named: Named, wanted: ReadRequest, identity: str) -> ManyFiles:
    """The scene in another process. Raises InputError where its files are other ones by now."""
    found = open_tiles(named, wanted)
    if found.identity != identity:
        raise InputError(
            f"{named}: its files have changed since the run began; put them back as they were, or start anew with "
            "--overwrite"
        )
    return found


def open_tiles(named: Named, wanted: ReadRequest) -> ManyFiles:
    """Describe a scene that lies in several files. Raises InputError or UsageError in one line."""
    headers, notes = read_headers(str(named), tiles_of(named, wanted), wanted)
    _check_places(named, headers)
    ranks = _ranks(headers, wanted.joining.on_top)
    grids = same_words([header.grid for header in headers])
    anchor = anchor_of(grids, wanted.joining)
    found = [
        lattice_of(first, [(headers[m.index].source, grids[m.index], ranks[m.index], m.window) for m in members])
        for first, members in lattices(grids, anchor)
        if members
    ]
    grid, layers = layers_on(anchor, found, wanted.joining.resampling)
    _check_size(named, grid)
    facts = [
        (grid.height, grid.width, tuple(grid.transform)[:6], grid.crs_wkt),
        [
            (
                layer.window,
                layer.warp and (tuple(layer.base.grid.transform)[:6], layer.base.grid.crs_wkt, layer.warp.resampling),
                [(placed.rank, placed.window, placed.source.identity) for placed in layer.base.files],
            )
            for layer in layers
        ],
    ]
    identity = hashlib.sha256(repr(facts).encode()).hexdigest()
    scene = ManyFiles(named, wanted, layers, grid, identity, ())
    return replace(scene, notes=(*notes, *_told(headers, scene)))


def _lay(pixels: Pixels, owner: Owner, more: Pixels, theirs: Owner) -> None:
    """Lay pixels over others, where their files have the lower ranks."""
    wins = theirs < owner
    pixels[wins] = more[wins]
    owner[wins] = theirs[wins]


def _check_places(named: Named, headers: Sequence[Header]) -> None:
    """Raise InputError where files do not say where they lie, or only some say in which system."""
    homeless = [h for h in headers if h.grid.transform.is_identity and h.grid.crs_wkt is None]
    if homeless and len(headers) > 1:
        raise InputError(
            f"{named}: {homeless[0].source.path} does not say where it lies on the ground, so it cannot be put beside "
            f"others ({len(homeless)} of {len(headers)} files do not); as scenes of their own: tileseg batch"
        )
    without = [h for h in headers if h.grid.crs_wkt is None]
    if without and len(without) < len(headers):
        raise InputError(
            f"{named}: {without[0].source.path} has no coordinate reference system, and others have "
            f"({len(without)} of {len(headers)} files have none); say it: gdal_edit.py -a_srs EPSG:<code> FILE"
        )


def _ranks(headers: Sequence[Header], on_top: OnTop) -> list[int]:
    """Of each file its place among those that may lie over each other: 0 is the top."""
    count = len(headers)
    match on_top:
        case "first":
            order = list(range(count))
        case "last":
            order = list(range(count))[::-1]
        case "newest":
            order = sorted(range(count), key=lambda i: headers[i].taken, reverse=True)
    ranks = [0] * count
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks


def _check_size(named: Named, grid: Grid) -> None:
    if grid.extent.pixels > MOST_PIXELS:
        raise InputError(
            f"{named}: would be a scene of {grid.width} x {grid.height} pixels of {abs(grid.transform.a):g}; where its "
            "files are no tiles of one image: tileseg batch; else choose a coarser --resolution"
        )


def _told(headers: Sequence[Header], scene: ManyFiles) -> list[str]:
    """What the user should know."""
    notes = []
    if len(headers) > 1:
        notes.append(f"{len(headers)} files are one scene (as scenes of their own: tileseg batch)")
    if scene.covered < _SPARSE:
        notes.append(f"its files cover {scene.covered:.2%} of it: are they tiles of one image?")
    if warped := [layer for layer in scene.layers if layer.warp is not None]:
        files = sum(len(layer.base.files) for layer in warped)
        crs = "" if scene.grid.crs is None else f" in {scene.grid.crs.name}"
        notes.append(
            f"{files} of its files lie on other grids: they are warped ({scene.wanted.joining.resampling}) as they are "
            f"read, onto pixels of {abs(scene.grid.transform.a):.6g}{crs}"
        )
    dtypes = Counter(header.source.dtype for header in headers)
    if len(dtypes) > 1:
        listed = ", ".join(f"{count} are {dtype}" for dtype, count in dtypes.most_common())
        notes.append(f"its files have pixels of several types ({listed}); they are read as {scene.dtype}")
    own = Counter(note for header in headers for note in header.source.notes)
    return notes + [note if count == len(headers) else f"{note} ({count} files)" for note, count in own.items()]
