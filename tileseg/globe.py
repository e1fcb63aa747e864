"""What a coordinate reference system covers of the globe: its longitudes, its seam, its poles, and where it ends."""

from __future__ import annotations

import math
import threading
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError

if TYPE_CHECKING:
    from pyproj import CRS, Transformer

Array = npt.NDArray[np.float64]

_TURN = 360.0

_FAR = 1e12
"""Coordinates beyond are no place on a map: where a projection sends what it cannot show."""


class Globe:
    """A coordinate reference system, seen from longitude and latitude. Safe to share between threads."""

    def __init__(self, crs: CRS) -> None:
        self.crs = crs
        self._local = threading.local()

    @cached_property
    def degrees(self) -> CRS:
        """Longitude and latitude in which GeoJSON is written: WGS 84; on another body than the Earth, its own."""
        from pyproj import CRS, Transformer
        from pyproj.exceptions import ProjError

        wgs84 = CRS.from_epsg(4326)
        try:
            Transformer.from_crs(self.crs, wgs84, always_xy=True)
        except ProjError as error:
            if "celestial body" not in str(error):
                raise InputError(f"the CRS {self.crs.name!r} cannot be turned into {wgs84.name}: {error}") from error
            return self.geodetic_crs
        return wgs84

    @property
    def is_earth(self) -> bool:
        """Whether this is a system of the Earth."""
        return self.degrees.to_epsg() == 4326

    @cached_property
    def geodetic_crs(self) -> CRS:
        """The system's own longitude and latitude. Raises InputError where there are none."""
        geodetic = self.crs.geodetic_crs
        if geodetic is None:
            raise InputError(
                f"the CRS {self.crs.name!r} has no longitude and latitude below it: areas cannot be measured; "
                "assign another CRS to the scene"
            )
        return geodetic

    @cached_property
    def shares_datum(self) -> bool:
        """Whether the system's own longitude and latitude are those of GeoJSON: one transform then does for both."""
        return bool(self.geodetic_crs.equals(self.degrees, ignore_axis_order=True))

    @cached_property
    def is_plain(self) -> bool:
        """Whether x and y are longitude and latitude themselves; x may then run on beyond half a turn."""
        return bool(self.crs.is_geographic) and not self.crs.is_derived

    @cached_property
    def period(self) -> float | None:
        """How far along x the map repeats itself: of longitudes and of cylindrical projections (normal aspect)."""
        if self.is_plain:
            return 2 * math.pi / self._unit
        lon = np.arange(-180.0, 180.0, 15.0)
        try:
            rows = [self.xy(np.column_stack([lon, np.full_like(lon, lat)]))[:, 0] for lat in (0.0, 35.0, -50.0)]
        except InputError:
            return None
        size = float(np.ptp(rows[0])) if np.isfinite(rows).all() else 0.0
        if not size or np.abs(np.ptp(rows, axis=0)).max() > 1e-9 * size:
            return None
        return 24 * float(np.median(np.abs(np.diff(rows[0]))))

    @cached_property
    def seam(self) -> float | None:
        """The longitude (degrees) along which a map of the whole globe is cut open; None where there is no such line.

        Found where neighbouring points of several parallels lie apart on the map.
        """
        if self.is_plain:
            return None
        lon = np.arange(-179.5, 181.0, 1.0)
        found = set()
        for lat in (-41.0, 1.0, 41.0):
            xy = self.xy(np.column_stack([lon, np.full_like(lon, lat)]))
            if not np.isfinite(xy).all():
                return None
            steps = np.hypot(*np.diff(xy, axis=0).T)
            widest = int(steps.argmax())
            if steps[widest] < 20 * np.median(steps):
                return None
            found.add(widest)
        if len(found) != 1:
            return None
        low, high = float(lon[widest]), float(lon[widest]) + 1
        left, right = self.xy(np.array([[low, 1.0], [high, 1.0]]))
        for _ in range(45):
            middle = (low + high) / 2
            here = self.xy(np.array([[middle, 1.0]]))[0]
            if np.hypot(*(here - left)) < np.hypot(*(here - right)):
                low = middle
            else:
                high = middle
        return round((low + high) / 2, 9)

    @cached_property
    def poles(self) -> tuple[tuple[int, float, float], ...]:
        """(1 north or -1 south, x, y) of the poles that are points on the map."""
        found = []
        for sign in (1, -1):
            around = self.xy(np.array([[lon, 90.0 * sign] for lon in (-120.0, 0.0, 77.0)]))
            size = np.abs(around).max()
            if self.is_plain or not size < _FAR:
                continue
            if np.ptp(around, axis=0).max() < max(1e-3, 1e-6 * size):
                found.append((sign, float(around[1, 0]), float(around[1, 1])))
        return tuple(found)

    def lonlat(self, xy: Array) -> Array:
        """(n, 2) longitude and latitude in ``degrees``; not finite where the map has no ground.

        Where x is a longitude, it runs on beyond 180 as x does, and latitudes end at the poles.
        """
        if not self.is_plain:
            return self._transform("degrees", self.crs, self.degrees, xy)
        if self.shares_datum:
            return xy
        limit = math.pi / 2 / self._unit
        wrapped = np.column_stack(
            [np.remainder(xy[:, 0] + 2 * limit, 4 * limit) - 2 * limit, np.clip(xy[:, 1], -limit, limit)]
        )
        found = self._transform("degrees", self.crs, self.degrees, wrapped)
        meridian = self.crs.prime_meridian
        shift = 0.0 if meridian is None else math.degrees(meridian.longitude * float(meridian.unit_conversion_factor))
        turns = np.rint((np.degrees(xy[:, 0] * self._unit) + shift - found[:, 0]) / _TURN)
        return found + np.column_stack([turns * _TURN, np.zeros(len(found))])

    def radians(self, xy: Array) -> Array:
        """(n, 2) longitude and latitude in radians on the system's own datum; not finite where there is no ground."""
        if not self.is_plain:
            unit = self.geodetic_crs.axis_info[0].unit_conversion_factor
            return self._transform("geodetic", self.crs, self.geodetic_crs, xy) * unit
        found = xy * self._unit
        found[:, 1] = np.clip(found[:, 1], -math.pi / 2, math.pi / 2)
        return found

    def xy(self, lonlat: Array) -> Array:
        """(n, 2) coordinates of longitudes and latitudes (``degrees``); not finite where the map does not reach."""
        return self._transform("back", self.degrees, self.crs, lonlat)

    def on_ground(self, xy: Array, tolerance: float) -> npt.NDArray[np.bool_]:
        """Which points (n, 2) lie on the map, not beside it: going to the globe and back leads to the same place.

        Beside it, projections give no answer, or that of another place. ``tolerance``: in units of the coordinates.
        """
        if self.is_plain:
            return np.ones(len(xy), np.bool_)
        back = self.xy(self.lonlat(xy))
        off = back - xy
        if self.period is not None:
            off[:, 0] = np.remainder(off[:, 0] + self.period / 2, self.period) - self.period / 2
        return np.asarray(np.hypot(off[:, 0], off[:, 1]) <= tolerance + 1e-6 * np.abs(xy).max(axis=1))

    @property
    def _unit(self) -> float:
        """Radians per unit of the coordinates."""
        return float(self.crs.axis_info[0].unit_conversion_factor)

    def _transform(self, name: str, source: CRS, target: CRS, xy: Array) -> Array:
        transformer: Transformer | None = getattr(self._local, name, None)
        if transformer is None:  # not to be shared between threads
            transformer = transformer_between(source, target)
            setattr(self._local, name, transformer)
        return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))


@lru_cache(maxsize=16)
def globe_of(crs_wkt: str) -> Globe:
    """The globe of a coordinate reference system given as WKT."""
    from pyproj import CRS

    return Globe(CRS.from_wkt(crs_wkt))


def transformer_between(source: CRS, target: CRS) -> Transformer:
    """From one system to another, x before y. Raises InputError in one line where there is no way."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise InputError(f"the CRS {source.name!r} cannot be turned into {target.name}: {error}") from error
