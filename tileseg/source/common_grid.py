"""The grid that files of several grids have in common, and which of them lie on one lattice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from affine import Affine

from tileseg.errors import InputError, UsageError, first_line
from tileseg.grid import Grid
from tileseg.source.lattice import ALIGNED, place_on
from tileseg.source.protocol import Joining
from tileseg.window import Window

_PHASES = round(1 / ALIGNED)


@dataclass(frozen=True, slots=True)
class Member:
    """A grid on a lattice."""

    index: int
    """Which of the grids."""
    window: Window
    """Where on the lattice it lies."""


def same_words(grids: Sequence[Grid]) -> list[Grid]:
    """The grids, those of one coordinate reference system with the same WKT, however their files spell it."""
    words: dict[str, str] = {}
    for grid in grids:
        if grid.crs_wkt is not None and grid.crs_wkt not in words:
            same = (known for known in set(words.values()) if _crs(known) == _crs(grid.crs_wkt))
            words[grid.crs_wkt] = next(same, grid.crs_wkt)
    return [
        g if g.crs_wkt is None or words[g.crs_wkt] == g.crs_wkt else replace(g, crs_wkt=words[g.crs_wkt]) for g in grids
    ]


def _crs(wkt: str) -> object:
    from pyproj import CRS

    return CRS.from_wkt(wkt)


def lattices(grids: Sequence[Grid], first: Grid) -> list[tuple[Grid, list[Member]]]:
    """The grids by the lattices that they lie on, each with the grid that it is counted from; ``first`` is the first.

    It may have no member.
    """
    found: list[tuple[Grid, list[Member]]] = [(first, [])]
    known: dict[tuple[object, ...], list[int]] = {}
    _note(known, first, 0)
    for index, grid in enumerate(grids):
        for candidate in known.get(_key(grid), ()):
            window = place_on(found[candidate][0], grid)
            if window is not None:
                found[candidate][1].append(Member(index, window))
                break
        else:
            _note(known, grid, len(found))
            found.append((grid, [Member(index, grid.extent)]))
    return found


def _note(known: dict[tuple[object, ...], list[int]], grid: Grid, index: int) -> None:
    """Remember a lattice under its own key, and under those that rounding may give to grids that lie on it."""
    crs, steps, (col, row) = _key(grid)
    for cols in (-1, 0, 1):
        for rows in (-1, 0, 1):
            key = (crs, steps, ((col + cols) % _PHASES, (row + rows) % _PHASES))
            known.setdefault(key, []).append(index)


def _key(grid: Grid) -> tuple[str | None, tuple[float, ...], tuple[int, int]]:
    """What grids on one lattice have in common, about: system, steps, and where their corners lie inside a pixel."""
    steps = _steps(grid)
    exact = Affine(steps[0], steps[1], 0, steps[2], steps[3], 0)
    col, row = ~exact @ (grid.transform.c, grid.transform.f)
    return grid.crs_wkt, steps, (math.floor(col % 1 * _PHASES) % _PHASES, math.floor(row % 1 * _PHASES) % _PHASES)


def _steps(grid: Grid) -> tuple[float, float, float, float]:
    """A pixel's sides, rounded as files round them."""
    a, b, d, e = (float(f"{v:.9g}") for v in (grid.transform.a, grid.transform.b, grid.transform.d, grid.transform.e))
    return a, b, d, e


def _kind(grid: Grid) -> tuple[str | None, tuple[float, ...]]:
    return grid.crs_wkt, _steps(grid)


def _spanned(grids: Sequence[Grid]) -> Grid:
    """A grid as wide and high as these of one kind together: where they are cut makes no difference."""
    first = grids[0].transform
    corners = [~first @ (g.transform @ corner) for g in grids for corner in ((0, 0), (g.width, g.height))]
    cols, rows = ([round(corner[i]) for corner in corners] for i in (0, 1))
    shifted = first @ Affine.translation(min(cols), min(rows))
    return Grid(max(rows) - min(rows), max(cols) - min(cols), shifted, grids[0].crs_wkt)


def majority(grids: Sequence[Grid]) -> Grid:
    """The first of those with the system and the steps that most of them have."""
    kinds = [_kind(grid) for grid in grids]
    counts = Counter(kinds)
    most = max(counts.values())
    return next(grid for grid, kind in zip(grids, kinds, strict=True) if counts[kind] == most)


def anchor_of(grids: Sequence[Grid], joining: Joining) -> Grid:
    """A grid on the lattice of the scene. Raises UsageError where what is asked for makes no sense.

    That of most of the grids, unless a system or a resolution is asked for that it has not: then that of most of those
    that have them; or else one whose lines lie on whole multiples of the resolution.
    """
    usual = majority(grids)
    wkt = usual.crs_wkt if joining.crs is None else _asked(joining.crs, grids)
    alike = [g for g in grids if g.crs_wkt == wkt and has_resolution(g, joining.resolution)]
    if alike:
        return majority(alike)
    size = joining.resolution or _resolution(_spanned([g for g in grids if _kind(g) == _kind(usual)]), wkt)
    return Grid(1, 1, Affine(size, 0, 0, 0, -size, 0), wkt)


def has_resolution(grid: Grid, resolution: float | None) -> bool:
    """Whether a grid's pixels are squares of that side, along its axes."""
    a, b, d, e = _steps(grid)
    return resolution is None or (b == d == 0 and math.isclose(abs(a), resolution, rel_tol=1e-9) and abs(a) == abs(e))


def _asked(text: str, grids: Sequence[Grid]) -> str:
    """The WKT of a system that the user names, in the words of the grids that have it."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise UsageError(f"--crs {text}: {first_line(error)}; expected one such as EPSG:32637") from error
    if grids[0].crs_wkt is None:
        raise UsageError(f"--crs {text}: the files say no coordinate reference system to warp from")
    return next((g.crs_wkt for g in _distinct(grids) if g.crs == crs and g.crs_wkt), crs.to_wkt("WKT2_2019"))


def _distinct(grids: Sequence[Grid]) -> Iterator[Grid]:
    return iter({grid.crs_wkt: grid for grid in grids}.values())


def _resolution(grid: Grid, wkt: str | None) -> float:
    """The resolution in another system that keeps the pixels of a grid as large, as gdalwarp chooses it."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import calculate_default_transform

    try:
        transform, _, _ = calculate_default_transform(grid.crs_wkt, wkt, grid.width, grid.height, *grid.bounds)
    except (RasterioError, CPLE_BaseError) as error:
        raise InputError(f"the files cannot be warped into the --crs that is asked for: {first_line(error)}") from error
    return float(f"{transform.a:.6g}")
