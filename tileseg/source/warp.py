"""Pixels of one lattice on another, by GDAL's warper, such that any window equals the same window of the whole.

Four things make GDAL's warper depend on the window that is asked for; each is pinned here:

* it approximates coordinates between points of the window: a transformer without approximation is used;
* it computes them from the window's own corner: here always from that of the whole lattice, of which only the part that
  is needed is there (a virtual raster with one source);
* it takes the resampling ratio, which widens the kernel where pixels get coarser, from each piece: it is given;
* of several operations between two systems it takes the one that suits the points at hand: it is named.

And pixels without data change which of its loops runs, and with it the rounding. So there are none: those near data are
filled from it, and which result has data is decided by the pixel under its centre.

Source: GDAL's documentation of GDALWarpOptions (XSCALE, SOURCE_EXTRA, SAMPLE_GRID) and of warped VRTs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.windows
from affine import Affine
from rasterio.io import MemoryFile

from tileseg.choices import Resampling
from tileseg.globe import transformer_between
from tileseg.grid import Grid
from tileseg.source.gdal import complaints
from tileseg.source.lattice import NOBODY, Owner
from tileseg.source.protocol import Pixels
from tileseg.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "int32": "Int32", "float32": "Float32",
}  # fmt: skip
_ALGORITHMS = {"nearest": "NearestNeighbour", "bilinear": "Bilinear", "cubic": "Cubic"}
_RADIUS = {"nearest": 0, "bilinear": 1, "cubic": 2}
"""Pixels that a kernel reaches, where pixels do not get coarser."""
_EXTRA = 4
"""Further pixels that are read around what a window needs."""
_PIECE, _LEAST, _BLOCK = 512, 16, 128
"""Rows and columns: of the source that are warped at once, about; of the target, at least; that GDAL computes whole."""
_POINTS = 11
"""Points along each side of a window whose places are computed to find out what it needs."""


@dataclass(frozen=True, eq=False)
class Warp:
    """From one lattice to another."""

    source: Grid
    """Whole lattice of the pixels that are read."""
    target: Grid
    """Whole lattice of the pixels that are wanted."""
    resampling: Resampling

    def needed(self, window: Window) -> Window | None:
        """What a window of the target needs of the source; None: it lies beside it."""
        cols, rows = self._seen(window)
        here = np.isfinite(cols) & np.isfinite(rows)
        if not here.any():
            return None
        margin = self.reach + _EXTRA
        top, left = math.floor(rows[here].min()) - margin, math.floor(cols[here].min()) - margin
        bottom, right = math.ceil(rows[here].max()) + margin, math.ceil(cols[here].max()) + margin
        return self.source.extent.intersection(Window(top, left, max(1, bottom - top), max(1, right - left)))

    @property
    def reach(self) -> int:
        """Pixels of the source that a kernel reaches to each side."""
        return math.ceil(_RADIUS[self.resampling] / min(self.scale)) + 1

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Pixels of the target per pixel of the source along its columns and rows, at most 1: below, kernels widen."""
        here = self.covers or self.target.extent
        middle = Window(here.row_off + here.height // 2, here.col_off + here.width // 2, 1, 1)
        cols, rows = (values.reshape(_POINTS, _POINTS) for values in self._seen(middle))
        found = []
        for values in (cols, rows):
            steps = values[-1, 0] - values[0, 0], values[0, -1] - values[0, 0]
            size = math.hypot(*steps)
            found.append(float(f"{min(1.0, 1 / size):.6g}") if math.isfinite(size) and size > 0 else 1.0)
        return found[0], found[1]

    @property
    def piece(self) -> int:
        """Rows and columns of the target that are best warped at once, beginning at multiples of it.

        Where pixels get coarser, they need many more of the source: so the memory is bounded.
        """
        return 1 << int(math.log2(max(_LEAST, _PIECE * min(self.scale))))

    def _seen(self, window: Window) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Columns and rows of the source under evenly spread points of a window of the target."""
        cols, rows = np.meshgrid(
            np.linspace(window.col_off, window.col_stop, _POINTS), np.linspace(window.row_off, window.row_stop, _POINTS)
        )
        x, y = _through(self.target.transform, cols.ravel(), rows.ravel())
        if self._between:
            assert self.source.crs is not None
            assert self.target.crs is not None
            x, y = transformer_between(self.target.crs, self.source.crs).transform(x, y)
        return _through(~self.source.transform, x, y)

    @property
    def _between(self) -> bool:
        return self.source.crs_wkt != self.target.crs_wkt

    @cached_property
    def covers(self) -> Window | None:
        """The pixels of the endless target lattice whose centres may lie on the source; None: not one."""
        back = Warp(self.target, self.source, "nearest")
        cols, rows = back._along(self.source.extent)
        here = np.isfinite(cols) & np.isfinite(rows)
        if not here.any():
            return None
        left, right = math.ceil(cols[here].min() - 0.5 - 1e-6), math.floor(cols[here].max() - 0.5 + 1e-6)
        top, bottom = math.ceil(rows[here].min() - 0.5 - 1e-6), math.floor(rows[here].max() - 0.5 + 1e-6)
        return Window(top, left, bottom + 1 - top, right + 1 - left) if bottom >= top and right >= left else None

    def _along(self, window: Window) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """As :meth:`_seen`, in pieces, so that long sides have more points."""
        pieces = [self._seen(piece) for piece in _pieces(window, 8)]
        return np.concatenate([cols for cols, _ in pieces]), np.concatenate([rows for _, rows in pieces])

    def __call__(
        self, pixels: Pixels, owner: Owner, at: Window, window: Window, *, ranks: bool = True
    ) -> tuple[Pixels, Owner]:
        """Warp what is at ``at`` in the source onto a window of the target: pixels (y, x, band) and owner (y, x).

        Without ``ranks`` it is only said whether a pixel has an owner, and not which.
        """
        if (owner == NOBODY).all():
            shape = (window.height, window.width)
            return np.zeros((*shape, pixels.shape[2]), pixels.dtype), np.full(shape, NOBODY, np.int32)
        filled = spread(pixels, owner != NOBODY, self.reach) if self.resampling != "nearest" else pixels
        warped = self._warped(np.moveaxis(filled, -1, 0), at, window, self.resampling, 0)
        return np.ascontiguousarray(np.moveaxis(warped, 0, -1)), self._owners(owner, at, window, ranks=ranks)

    def _owners(self, owner: Owner, at: Window, window: Window, *, ranks: bool) -> Owner:
        """Whose the pixels under the centres are (y, x). Where all are one file's, nothing need be computed."""
        low, high = int(owner.min()), int(owner.max())
        whole = self.source.extent
        # At the source's own edge, some centres may lie beyond.
        inside = at.row_off > 0 and at.col_off > 0 and at.row_stop < whole.height and at.col_stop < whole.width
        if inside and (low == high or (not ranks and high != NOBODY)):
            return np.full((window.height, window.width), low, np.int32)
        return np.asarray(self._warped(owner[None], at, window, "nearest", NOBODY)[0])

    def _warped(
        self, planes: npt.NDArray[Any], at: Window, window: Window, resampling: Resampling, outside: int
    ) -> npt.NDArray[Any]:
        """Planes (band, y, x)."""
        frame = rasterio.windows.Window(window.col_off, window.row_off, window.width, window.height)
        with complaints("warping"), MemoryFile() as memory:
            with memory.open(
                driver="GTiff", count=len(planes), height=at.height, width=at.width, dtype=planes.dtype
            ) as file:
                file.write(planes)
            part = _part(memory.name, self.source, at, planes)
            with rasterio.open(self._text(part, planes, resampling, outside), driver="VRT") as on_target:
                return np.asarray(on_target.read(window=frame))

    def _text(self, part: str, planes: npt.NDArray[Any], resampling: Resampling, outside: int) -> str:
        """A warped virtual raster."""
        kind, bands = _GDAL_TYPES[planes.dtype.name], range(1, len(planes) + 1)
        options = {
            "XSCALE": self.scale[0], "YSCALE": self.scale[1], "SOURCE_EXTRA": self.reach + _EXTRA,
            "SAMPLE_GRID": "YES", "INIT_DEST": outside,
        }  # fmt: skip
        places = "".join(
            f"<{name}>{','.join(repr(float(value)) for value in transform.to_gdal())}</{name}>"
            for name, transform in (
                ("SrcGeoTransform", self.source.transform),
                ("SrcInvGeoTransform", ~self.source.transform),
                ("DstGeoTransform", self.target.transform),
                ("DstInvGeoTransform", ~self.target.transform),
            )
        )
        return (
            f'<VRTDataset rasterXSize="{self.target.width}" rasterYSize="{self.target.height}" '
            'subClass="VRTWarpedDataset">'
            + "".join(f'<VRTRasterBand dataType="{kind}" band="{i}" subClass="VRTWarpedRasterBand"/>' for i in bands)
            # GDAL computes whole blocks, also of those that a window only touches; a large one would be mostly in vain.
            + "".join(f"<Block{axis}Size>{min(_BLOCK, self.piece)}</Block{axis}Size>" for axis in "XY")
            + f"<GDALWarpOptions><ResampleAlg>{_ALGORITHMS[resampling]}</ResampleAlg>"
            f"<WorkingDataType>{kind}</WorkingDataType>"
            + "".join(f'<Option name="{name}">{value}</Option>' for name, value in options.items())
            + f'<SourceDataset relativeToVRT="0">{escape(part)}</SourceDataset>'
            f"<Transformer><GenImgProjTransformer>{places}{self._reprojection}</GenImgProjTransformer></Transformer>"
            "<BandList>" + "".join(f'<BandMapping src="{i}" dst="{i}"/>' for i in bands) + "</BandList>"
            "</GDALWarpOptions></VRTDataset>"
        )

    @cached_property
    def _reprojection(self) -> str:
        if not self._between:
            return ""
        assert self.source.crs_wkt is not None
        assert self.target.crs_wkt is not None
        return (
            f"<ReprojectTransformer><ReprojectionTransformer><SourceSRS>{escape(self.source.crs_wkt)}</SourceSRS>"
            f"<TargetSRS>{escape(self.target.crs_wkt)}</TargetSRS><Options>"
            f'<Option key="COORDINATE_OPERATION">{escape(self._operation())}</Option>'
            "</Options></ReprojectionTransformer></ReprojectTransformer>"
        )

    def _operation(self) -> str:
        """What PROJ does between the systems at the middle of the source: it may know several ways."""
        from pyproj import Transformer

        assert self.source.crs is not None
        assert self.target.crs is not None
        way = Transformer.from_crs(self.source.crs, self.target.crs)
        x, y = self.source.transform @ (self.source.width / 2, self.source.height / 2)
        # By the authority's order of axes, as GDAL wants it here.
        first = self.source.crs.axis_info[0].direction if self.source.crs.axis_info else "east"
        way.transform(*((y, x) if first == "north" else (x, y)))
        return str(way.get_last_used_operation().definition)


def _through(
    transform: Affine, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _pieces(window: Window, count: int) -> Iterator[Window]:
    """A window in at most ``count`` x ``count`` pieces."""
    from tileseg.window import tile

    return iter(tile(window, -(-window.height // count), -(-window.width // count)))


def _part(name: str, whole: Grid, at: Window, planes: npt.NDArray[Any]) -> str:
    """A virtual raster as large as the whole lattice, with pixels where they are."""
    kind = _GDAL_TYPES[planes.dtype.name]
    size = f'xSize="{at.width}" ySize="{at.height}"'
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename relativeToVRT="0">{name}'
        f'</SourceFilename><SourceBand>{i}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{at.col_off}" yOff="{at.row_off}" {size}/></SimpleSource></VRTRasterBand>'
        for i in range(1, len(planes) + 1)
    )
    return f'<VRTDataset rasterXSize="{whole.width}" rasterYSize="{whole.height}">{bands}</VRTDataset>'


def spread(pixels: Pixels, valid: npt.NDArray[np.bool_], reach: int) -> Pixels:
    """Pixels (y, x, band) whose neighbours without data have that of a neighbour with it, so far as ``reach`` goes.

    What a pixel gets depends on those within reach alone. Elsewhere it is 0.
    """
    if valid.all():
        return pixels
    filled = np.where(valid[..., None], pixels, np.zeros((), pixels.dtype))
    known = valid.copy()
    for _ in range(reach):
        before, values = known.copy(), filled.copy()
        for rows, cols in ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            here, there = _shifted(rows, cols)
            takes = before[there] & ~known[here]
            filled[here][takes] = values[there][takes]
            known[here] |= takes
    return filled


def _shifted(rows: int, cols: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of all pixels that have a neighbour so many rows and columns further, and of those neighbours."""
    here = tuple(slice(max(0, -n), min(0, -n) or None) for n in (rows, cols))
    there = tuple(slice(max(0, n), min(0, n) or None) for n in (rows, cols))
    return (here[0], here[1]), (there[0], there[1])


def scaled(grid: Grid, shape: tuple[int, int]) -> Grid:
    """The grid of every n-th pixel, (rows, columns) of ``shape``."""
    factor = Affine.scale(grid.width / shape[1], grid.height / shape[0])
    return Grid(*shape, grid.transform @ factor, grid.crs_wkt)
