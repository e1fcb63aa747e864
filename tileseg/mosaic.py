"""The Zarr group of a run: logits or probabilities, labels and a pyramid of these, disagreement, on the scene's grid.

One block writes whole shards and nobody else writes them, so there are no locks. A shard is written to a
temporary name and renamed (by Zarr's local store), or is one object that appears whole, so a killed writer leaves an
old shard, a new one or none.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from affine import Affine
from zarr.codecs import BloscCodec
from zarr.storage import ObjectStore

from tileseg.card import ClassInfo, HandedOver
from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.labels import (
    CERTAIN,
    NODATA,
    SPREAD_STEP,
    Confidence,
    Labels,
    Logits,
    decide,
    decide_again,
    halve,
    probabilities,
)
from tileseg.ome import ome_attributes
from tileseg.plan import Keep
from tileseg.storage.patience import patiently_await
from tileseg.storage.place import Url
from tileseg.storage.remote import ask, object_store
from tileseg.storage.store import at
from tileseg.window import Window, tile

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

_CHUNK = 512
"""Pixels on a chunk's side at the most: what a viewer reads in one go."""
_LABEL_CHUNK = 1024
"""The same for labels, which are a byte each: every chunk costs Zarr about a millisecond to write."""

_SMALLEST_LEVEL = 256
"""The pyramid ends at the level that is no larger than this."""


@dataclass(frozen=True)
class Mosaic:
    """An opened mosaic; picklable, opened lazily in each process."""

    path: Path | Url
    thresholds: Mapping[int, float] | None = None
    """Class id -> probability from which a pixel gets it, instead of the stored labels."""

    @cached_property
    def _group(self) -> zarr.Group:
        try:
            group = ask(self.path, lambda: zarr.open_group(_store(self.path), mode="r+", zarr_format=3))
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            raise InputError(f"{self.path}: not a mosaic of tileseg: expected a folder with zarr.json") from None
        if "tileseg" not in group.attrs:
            raise InputError(f"{self.path}: a Zarr group, but not a mosaic of tileseg (no 'tileseg' attribute)")
        return group

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "thresholds": self.thresholds}

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return dict(self._group.attrs["tileseg"])  # type: ignore[arg-type]

    @cached_property
    def grid(self) -> Grid:
        """The scene's grid."""
        facts = self._facts["grid"]
        return Grid(facts["height"], facts["width"], Affine(*facts["transform"]), facts["crs_wkt"])

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Names and colours by class id."""
        return tuple(ClassInfo.model_validate(c) for c in self._facts["classes"])

    @cached_property
    def hands_over(self) -> HandedOver:
        """Which polygons the users of its model hand over."""
        return HandedOver.model_validate(self._facts.get("hands_over", {}))

    @cached_property
    def block(self) -> tuple[int, int]:
        """Size of the blocks it was written in (rows, columns)."""
        labels = self._array("labels")
        height, width = labels.shards or labels.chunks
        return height, width

    @property
    def nodata(self) -> int:
        """Label of pixels without data."""
        return NODATA

    @property
    def keep(self) -> Keep:
        """What it holds besides labels."""
        return self._facts["keep"]  # type: ignore[no-any-return]

    @property
    def temperature(self) -> float:
        """What its logits are divided by before they become probabilities; probabilities that it holds were so."""
        return float(self._facts.get("temperature", 1.0))

    @property
    def chances(self) -> Mapping[str, Sequence[float]]:
        """Class name -> weights of the chance that its polygons are real objects; none where labels are other ones."""
        return {} if self.thresholds else self._facts.get("objects", {})

    @property
    def has_disagreement(self) -> bool:
        """Whether it holds the disagreement of views."""
        return bool(self._facts.get("disagreement"))

    def _array(self, name: str) -> zarr.Array[Any]:
        member = self._group[name]
        assert isinstance(member, zarr.Array)
        return member

    def _read(self, name: str, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        return ask(self.path, lambda: np.asarray(self._array(name)[where]))

    def _write(self, name: str, where: tuple[slice, ...], data: npt.NDArray[Any]) -> None:
        # Not looking for chunks without data: comparing with the fill value takes about as long as compressing.
        array = ask(self.path, lambda: self._array(name)).with_config({"write_empty_chunks": True})
        ask(self.path, lambda: array.__setitem__(where, data))

    def with_thresholds(self, texts: Sequence[str]) -> Mosaic:
        """The mosaic read with thresholds such as ``building=0.7`` (name or id). Raises UsageError."""
        if not texts:
            return self
        if self.keep == "labels":
            raise UsageError(f"--threshold: {self.path} was made with --keep labels, so there are no probabilities")
        ids = {name: i for i, info in enumerate(self.classes) for name in (info.name, str(i))}
        thresholds = {}
        for text in texts:
            name, _, value = text.rpartition("=")
            try:
                probability = float(value)
            except ValueError:
                probability = -1.0
            if name not in ids or not 0 <= probability <= 1:
                raise UsageError(
                    f"--threshold {text}: expected CLASS=P with P from 0 to 1 and CLASS one of "
                    + ", ".join(info.name for info in self.classes)
                )
            thresholds[ids[name]] = probability
        return Mosaic(self.path, thresholds)

    # --- Writing ----------------------------------------------------------------------------------------------

    def write_block(
        self, core: Window, logits: Logits | None, labels: Labels, disagreement: npt.NDArray[np.uint8] | None = None
    ) -> None:
        """Write the whole shards of one block: (class, y, x) logits or None (labels only), (y, x) labels.

        ``disagreement``: (y, x) in units of SPREAD_STEP, 255 where there are no data.
        """
        rows, cols = core.slices
        if self.keep == "logits" and logits is not None:
            self._write("logits", (slice(None), rows, cols), logits)
        elif self.keep == "probabilities" and logits is not None:
            self._write("probabilities", (slice(None), rows, cols), probabilities(logits, self.temperature))
        self._write("labels", (rows, cols), labels)
        if disagreement is not None:
            self._write("disagreement", (rows, cols), disagreement)
        for level in self._levels_of_blocks:
            labels = halve(labels)
            row, col = core.row_off // level, core.col_off // level
            where = slice(row, row + labels.shape[0]), slice(col, col + labels.shape[1])
            self._write(f"overviews/{level}/labels", where, labels)

    def write_pyramid(self) -> None:
        """Fill the levels that single blocks cannot (a block is no whole number of their pixels)."""
        for level in self.levels:
            if level in self._levels_of_blocks:
                continue
            finer = f"overviews/{level // 2}/labels" if level > 2 else "labels"
            coarser = self._array(f"overviews/{level}/labels")
            height, width = coarser.shape
            side = coarser.shards or coarser.chunks
            for part in tile(Window(0, 0, height, width), *side):
                rows, cols = part.slices
                source = slice(2 * rows.start, 2 * rows.stop), slice(2 * cols.start, 2 * cols.stop)
                labels = halve(self._read(finer, source).astype(np.uint8, copy=False))
                ask(self.path, partial(coarser.__setitem__, (rows, cols), labels))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Factors of the pyramid: 2, 4, 8, ..."""
        return tuple(self._facts["levels"])

    @cached_property
    def _levels_of_blocks(self) -> tuple[int, ...]:
        return tuple(itertools.takewhile(lambda level: all(b % level == 0 for b in self.block), self.levels))

    def remove_partial(self) -> None:
        """Delete what killed writers left: temporary names only. No writer may be at work."""
        at(self.path).remove_partial()

    # --- Reading: a LabelSource ---------------------------------------------------------------------------------

    def read_labels(self, window: Window, level: int = 1) -> Labels:
        """(y, x) labels of a window; of the pyramid's ``level`` in that level's pixels."""
        rows, cols = window.slices
        if self.thresholds and level == 1:
            return self._decide_again(window)[0]
        name = "labels" if level == 1 else f"overviews/{level}/labels"
        return self._read(name, (rows, cols)).astype(np.uint8, copy=False)

    def read_confidence(self, window: Window) -> Confidence | None:
        """(y, x) probability of the pixel's class in units of 1/65535; None where only labels are kept."""
        if self.keep == "labels":
            return None
        if self.thresholds:
            return self._decide_again(window)[1]
        rows, cols = window.slices
        valid = self.read_labels(window) != NODATA
        if self.keep == "logits":
            return decide(self.read_logits(window), valid, self.temperature)[1]
        chances = self._read("probabilities", (slice(None), rows, cols))
        return np.where(valid, chances.max(axis=0), np.uint16(0))

    def read_logits(self, window: Window) -> Logits:
        """(class, y, x) float16 logits of a window; NaN where nothing was computed."""
        rows, cols = window.slices
        return self._read("logits", (slice(None), rows, cols)).astype(np.float16, copy=False)

    def read_probabilities(self, window: Window) -> npt.NDArray[np.uint16]:
        """(class, y, x) probabilities of a window in units of 1/65535; 0 where nothing was computed.

        There are none with ``keep == "labels"``.
        """
        if self.keep == "logits":
            return probabilities(self.read_logits(window), self.temperature)
        rows, cols = window.slices
        return self._read("probabilities", (slice(None), rows, cols)).astype(np.uint16, copy=False)

    def read_disagreement(self, window: Window) -> npt.NDArray[np.uint8] | None:
        """(y, x) disagreement of views in units of SPREAD_STEP; 255 where there are no data; None: not kept."""
        if not self.has_disagreement:
            return None
        return self._read("disagreement", window.slices).astype(np.uint8, copy=False)

    def _decide_again(self, window: Window) -> tuple[Labels, Confidence]:
        rows, cols = window.slices
        valid = self._read("labels", (rows, cols)) != NODATA
        return decide_again(self.read_probabilities(window), valid, self.thresholds or {})


def create_mosaic(
    path: Path | Url,
    grid: Grid,
    block: tuple[int, int],
    classes: Sequence[ClassInfo],
    keep: Keep,
    provenance: dict[str, Any],
    *,
    disagreement: bool = False,
) -> Mosaic:
    """Create an empty mosaic, replacing what is there: one shard per block, made of chunks.

    Georeferenced twice: CF grid mapping and coordinates for xarray and rioxarray, ``proj:`` and ``spatial:``
    attributes for readers of the Zarr conventions.
    """
    facts = {**provenance, "disagreement": True} if disagreement else provenance
    ask(path, lambda: _create(_store(path), grid, block, classes, keep, facts))
    return Mosaic(path)


class _PatientStore(ObjectStore[Any]):
    """Tries writes again that a server says nothing about, which obstore does not: an object is written whole."""

    async def set(self, key: str, value: Buffer) -> None:
        await patiently_await(lambda: super(_PatientStore, self).set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        # One that arrived, although nothing was said, exists: that is no error.
        await patiently_await(lambda: super(_PatientStore, self).set_if_not_exists(key, value))


def _store(path: Path | Url) -> Path | ObjectStore[Any]:
    """What Zarr opens."""
    return path if isinstance(path, Path) else _PatientStore(object_store(path))


def _create(
    store: Path | ObjectStore[Any],
    grid: Grid,
    block: tuple[int, int],
    classes: Sequence[ClassInfo],
    keep: Keep,
    provenance: dict[str, Any],
) -> None:
    group = zarr.open_group(store, mode="w", zarr_format=3)
    levels = tuple(itertools.takewhile(lambda f: max(grid.height, grid.width) * 2 > _SMALLEST_LEVEL * f, _factors()))
    group.attrs.update(
        {
            "tileseg": {
                "format": 1,
                "grid": {
                    "height": grid.height,
                    "width": grid.width,
                    "transform": list(grid.transform)[:6],
                    "crs_wkt": grid.crs_wkt,
                },
                "classes": [c.model_dump() for c in classes],
                "keep": keep,
                "levels": list(levels),
                **provenance,
            },
            "Conventions": "CF-1.11",
            **_conventions(grid),
            **ome_attributes(grid, classes, {1: "labels", **{f: f"overviews/{f}/labels" for f in levels}}),
        }
    )
    shape = (grid.height, grid.width)
    count = len(classes)
    meanings = {"flag_values": list(range(count)), "flag_meanings": " ".join(_flag(c.name) for c in classes)}
    if keep != "labels":
        group.create_array(
            keep,
            shape=(count, *shape),
            chunks=(count, *_chunk(block, _CHUNK)),
            shards=(count, *block),
            dtype="float16" if keep == "logits" else "uint16",
            fill_value=float("nan") if keep == "logits" else 0,
            compressors=[BloscCodec(typesize=2, cname="lz4", clevel=1, shuffle="bitshuffle")],
            dimension_names=("class", "y", "x"),
            attributes=_mapped({} if keep == "logits" else {"scale_factor": 1 / CERTAIN}),
        )
        _put(group, "class", np.arange(count, dtype=np.uint8), ("class",), meanings)
    _put_labels(group, grid, block, meanings)
    if provenance.get("disagreement"):
        _put_spread(group, grid, block)
    for level in levels:
        coarse = grid.overview(level)
        side = (block[0] // level, block[1] // level) if all(b % level == 0 for b in block) else (_CHUNK, _CHUNK)
        folder = group.create_group(f"overviews/{level}", attributes=_conventions(coarse))
        _put_labels(folder, coarse, side, meanings)
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the Zarr v3 specification; xarray looks for it and warns without.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(group.store)


def _put_labels(group: zarr.Group, grid: Grid, shard: tuple[int, int], attributes: dict[str, Any]) -> None:
    # The one name for it by which rioxarray knows nodata and xarray does not turn labels into floats.
    _put_bytes(group, "labels", grid, shard, "noshuffle", {**attributes, "nodata": NODATA})
    _put(group, "spatial_ref", np.array(0, np.int64), (), _grid_mapping(grid))
    if grid.is_north_up:
        a, _, c, _, e, f, *_ = grid.transform
        kind = "geographic" if grid.crs is not None and grid.crs.is_geographic else "projection"
        for name, first, pixel, size in (("x", c, a, grid.width), ("y", f, e, grid.height)):
            geographic = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}[name]
            standard, unit = geographic if kind == "geographic" else (f"projection_{name}_coordinate", "")
            named = (
                {"standard_name": standard, "axis": name.upper()} if grid.crs is not None else {"axis": name.upper()}
            )
            _put(
                group,
                name,
                first + pixel * (np.arange(size) + 0.5),
                (name,),
                {**named, **({"units": unit} if unit and grid.crs is not None else {})},
            )


def _put_spread(group: zarr.Group, grid: Grid, shard: tuple[int, int]) -> None:
    # By the second, xarray makes NaN of what has no data, and by the first floats of the rest.
    facts = {"scale_factor": SPREAD_STEP, "_FillValue": NODATA}
    _put_bytes(group, "disagreement", grid, shard, "bitshuffle", facts)


def _put_bytes(
    group: zarr.Group,
    name: str,
    grid: Grid,
    shard: tuple[int, int],
    shuffle: Literal["noshuffle", "bitshuffle"],
    attributes: dict[str, Any],
) -> None:
    """An array (y, x) of bytes for the whole scene, without data so far."""
    group.create_array(
        name,
        shape=(grid.height, grid.width),
        chunks=_chunk(shard, _LABEL_CHUNK),
        shards=shard,
        dtype="uint8",
        fill_value=NODATA,
        compressors=[BloscCodec(typesize=1, cname="lz4", clevel=1, shuffle=shuffle)],
        dimension_names=("y", "x"),
        attributes=_mapped(attributes),
    )


def _put(
    group: zarr.Group, name: str, data: npt.NDArray[Any], dimensions: tuple[str, ...], attributes: dict[str, Any]
) -> None:
    array = group.create_array(
        name, shape=data.shape, dtype=data.dtype, chunks=data.shape or "auto", dimension_names=dimensions or None,
        attributes=attributes,
    )  # fmt: skip
    array[...] = data


def _mapped(attributes: dict[str, Any]) -> dict[str, Any]:
    # Named as a coordinate too, so that a plain xarray.open_zarr finds the CRS.
    return {**attributes, "grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}


def _grid_mapping(grid: Grid) -> dict[str, Any]:
    a, b, c, d, e, f, *_ = grid.transform
    named = {} if grid.crs is None else {**grid.crs.to_cf(), "spatial_ref": grid.crs_wkt}
    return {**named, "GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"}


def _conventions(grid: Grid) -> dict[str, Any]:
    named: dict[str, Any] = {}
    if grid.crs is not None:
        code = grid.crs.to_authority(min_confidence=100)
        named = {"proj:wkt2": grid.crs.to_wkt(), **({"proj:code": ":".join(code)} if code else {})}
    return {
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [grid.height, grid.width],
        "spatial:transform": list(grid.transform)[:6],
        "spatial:bbox": list(grid.bounds),
        "spatial:registration": "pixel",
        **named,
    }


def _factors() -> itertools.accumulate[int]:
    return itertools.accumulate(itertools.repeat(2), lambda a, b: a * b)


def _chunk(block: tuple[int, int], largest: int) -> tuple[int, int]:
    """Largest even parts of a block's sides that are no larger than a chunk may be."""
    rows, cols = (
        next(side // parts for parts in itertools.count(1) if side % parts == 0 and side // parts <= largest)
        for side in block
    )
    return rows, cols


def _flag(name: str) -> str:
    """CF separates flag meanings by blanks."""
    return "_".join(name.split())
