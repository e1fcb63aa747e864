"""A finished run in the hands of a script or a notebook: arrays, polygons, pictures."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileseg.card import ClassInfo
from tileseg.errors import InputError, UsageError
from tileseg.formats import FORMATS
from tileseg.labels import CERTAIN, NODATA, SPREAD_STEP
from tileseg.mosaic import Mosaic
from tileseg.run.folder import read_summary
from tileseg.run.names import MOSAIC
from tileseg.run.report import RunReport
from tileseg.storage.place import Url, parse_place

if TYPE_CHECKING:
    import xarray
    from geopandas import GeoDataFrame
    from PIL import Image

_PICTURE = (1000, 1000)
"""Pixels of the picture in a notebook, at most."""
_MOST_EXPLORED = 20_000
"""Polygons in one map of a notebook: a browser shows them as text."""


@dataclass(frozen=True)
class Run:
    """A finished run. In a notebook it shows itself: its quicklook, its classes, its files."""

    folder: Path | Url
    report: RunReport
    """What the run reported when it ended."""

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        """What the ids of labels mean."""
        return Mosaic(self.folder / MOSAIC).classes

    @cached_property
    def mosaic(self) -> xarray.Dataset:
        """The mosaic as lazy arrays on the scene's grid (y, x), classes by name along ``class``.

        ``labels`` (y, x) float32 class ids, NaN without data; and what the run kept: ``logits`` (class, y, x) float16,
        ``probabilities`` (class, y, x) float32, 0 to 1, ``disagreement`` (y, x) float32, 0 to 0.5. With rioxarray
        imported, ``.rio`` knows the CRS. Raises UsageError where xarray is not installed, or the run is on a server.
        """
        try:
            import xarray as xr
        except ImportError:
            raise UsageError('Run.mosaic needs xarray: pip install "tileseg[xarray]"') from None
        data: xarray.Dataset = xr.open_zarr(self._local(MOSAIC), mask_and_scale=False)
        data = data.assign_coords({"class": [info.name for info in self.classes]})
        valid = data["labels"] != NODATA
        for name, unit in (("labels", 1.0), ("probabilities", 1 / CERTAIN), ("disagreement", SPREAD_STEP)):
            if name in data:
                data[name] = (data[name].astype("float32") * np.float32(unit)).where(valid)
                data[name].attrs = {"grid_mapping": "spatial_ref"}
        return data

    def polygons(self) -> GeoDataFrame:
        """The polygons that it delivered: those of a file in the scene's CRS, if there is one, else in WGS 84.

        Raises InputError where there is none, UsageError where the run is on a server.
        """
        forms = [FORMATS[name] for name in self.report.outputs if name in FORMATS and FORMATS[name].reader is not None]
        for form in sorted(forms, key=lambda form: form.in_degrees):
            path = self._local(self.report.outputs[form.name].name)
            if path.exists():
                found: GeoDataFrame = form.read(path)
                return found
        raise InputError(f"{self.folder}: has no polygons that can be read; make them: tileseg vectorize {self.folder}")

    @property
    def quicklook(self) -> Image.Image:
        """The picture: outlines over the scene, the scene, its labels. Raises InputError where it is not there."""
        from PIL import Image

        path = self._local(self.report.outputs["quicklook"].name) if "quicklook" in self.report.outputs else None
        if path is None or not path.exists():
            raise InputError(f"{self.folder}: has no quicklook")
        return Image.open(path)

    def explore(self, *, most: int = _MOST_EXPLORED) -> Any:
        """A map of the polygons in the classes' colours, for a notebook: a ``folium.Map``.

        Where there are more than ``most``, the largest. Raises UsageError where folium is not installed, or the scene
        has no coordinate reference system.
        """
        try:
            import folium
        except ImportError:
            raise UsageError('Run.explore needs folium: pip install "tileseg[notebook]"') from None
        frame = self.polygons()
        if frame.crs is None:
            raise UsageError(f"{self.folder}: the scene lies nowhere on Earth, so there is no map of it")
        if len(frame) > most:
            frame = frame.loc[frame.to_crs(frame.estimate_utm_crs()).area.nlargest(most).index]
        frame = frame.to_crs("EPSG:4326")
        colors = {info.name: info.color for info in self.classes}

        def style(feature: dict[str, Any]) -> dict[str, Any]:
            color = colors.get(feature["properties"]["class_name"], "#3f7fbf")
            return {"color": color, "fillColor": color, "weight": 1.5, "fillOpacity": 0.25}

        view = folium.Map(control_scale=True)
        if len(frame):
            fields = [name for name in frame.columns if name != frame.geometry.name]
            folium.GeoJson(frame, style_function=style, popup=folium.GeoJsonPopup(fields)).add_to(view)
            west, south, east, north = frame.total_bounds
            view.fit_bounds([[south, west], [north, east]])
        return view

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = "".join(
            f"<tr><td><span style='color:{info.color}'>&#9632;</span> {html.escape(info.name)}</td>"
            f"<td>{self.report.pixels.get(info.name, 0):,}</td><td>{_count(self.report.polygons, info)}</td></tr>"
            for info in self.classes
        )
        files = ", ".join(html.escape(place.name) for place in self.report.outputs.values())
        return (
            f"<div><b>{html.escape(str(self.folder))}</b>{_picture(self)}"
            f"<table><tr><th>class</th><th>pixels</th><th>polygons</th></tr>{rows}</table>"
            f"<small>{files}</small></div>"
        )

    def _local(self, name: str) -> Path:
        if isinstance(self.folder, Path):
            return self.folder / name
        raise UsageError(f"{self.folder}: is on a server; copy the folder here to open it as arrays or polygons")


def open_run(folder: str | Path | RunReport) -> Run:
    """A finished run, by its folder or by what ``tileseg.run`` returned.

    Raises InputError where no run is finished there.
    """
    place = folder.folder if isinstance(folder, RunReport) else parse_place(str(folder))
    summary = read_summary(place)
    if summary is None:
        raise InputError(f"{place}: no finished run: expected a folder that `tileseg run` made, with summary.json")
    return Run(place, summary.report)


def _count(polygons: dict[str, int], info: ClassInfo) -> str:
    return f"{polygons[info.name]:,}" if info.name in polygons else "-"


def _picture(run: Run) -> str:
    """The quicklook within the page, smaller; nothing where there is none."""
    try:
        picture = run.quicklook.convert("RGB")
    except (InputError, UsageError):
        return ""
    picture.thumbnail(_PICTURE)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=88)
    text = base64.b64encode(data.getvalue()).decode()
    return f"<br><img style='max-width:100%' alt='quicklook' src='data:image/jpeg;base64,{text}'><br>"
