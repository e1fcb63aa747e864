"""A project of QGIS (``.qgz``): what belongs to a scene in one map, in the colours of its classes.

Rasters without coordinates lie below the x axis in QGIS (rows go downwards from 0), and polygons in pixels above it,
mirrored. A project may say in which coordinate reference system a layer is: pixels get one whose y axis points south,
and QGIS turns it itself, whatever the file's format.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

from tileseg.grid import Grid

PLANE = (
    'PROJCRS["{name}",BASEGEOGCRS["unknown",'
    'DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563]]],'
    'CONVERSION["plane",METHOD["Equidistant Cylindrical",ID["EPSG",1028]],'
    'PARAMETER["Latitude of 1st standard parallel",0],PARAMETER["Longitude of natural origin",0],'
    'PARAMETER["False easting",0],PARAMETER["False northing",0]],'
    'CS[Cartesian,2],AXIS["x",east,ORDER[1]],AXIS["y",{axis},ORDER[2]],LENGTHUNIT["metre",1]]'
)
"""What stands for no coordinate reference system: QGIS transforms between projections, not between plain planes."""

_COLORS = ("red", "green", "blue")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of the file in the archive: the same project is to give the same bytes."""


@dataclass(frozen=True, slots=True)
class MapLayer:
    """A layer of a project."""

    name: str
    source: str
    """As QGIS opens it, from the project's folder: ``./polygons.gpkg|layername=polygons``."""
    crs_wkt: str
    style: Sequence[ET.Element] = ()
    """Renderer of polygons, or pipe of a raster; without it, QGIS chooses."""
    is_raster: bool = False
    visible: bool = True

    @property
    def provider(self) -> str:
        """What of QGIS opens it."""
        return "gdal" if self.is_raster else "ogr"


def rows_go_down(grid: Grid) -> bool:
    """Whether coordinates are those of pixels, so that y is the row."""
    return grid.crs_wkt is None and grid.transform.e > 0


def crs_of(grid: Grid, *, polygons: bool = False) -> str:
    """The coordinate reference system (WKT) that QGIS is told: the scene's own, or a plane."""
    if grid.crs_wkt is not None:
        return grid.crs_wkt
    if polygons and rows_go_down(grid):
        return PLANE.format(name="pixels, rows downwards", axis="south")
    return PLANE.format(name="no coordinate reference system", axis="north")


def write_project(path: Path, title: str, grid: Grid, layers: Sequence[MapLayer]) -> None:
    """Write a project with layers, the first on top; it shows all of the grid."""
    root = ET.Element("qgis", projectname=title, version="3.22.0")
    ET.SubElement(root, "title").text = title
    ET.SubElement(root, "projectCrs").append(_reference(crs_of(grid)))
    tree = ET.SubElement(root, "layer-tree-group")
    for i, layer in enumerate(layers):
        ET.SubElement(
            tree, "layer-tree-layer", id=_id(i), name=layer.name, source=layer.source, providerKey=layer.provider,
            expanded="1", checked="Qt::Checked" if layer.visible else "Qt::Unchecked",
        )  # fmt: skip
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    ET.SubElement(canvas, "units").text = "meters"
    extent = ET.SubElement(canvas, "extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), _bounds(grid), strict=True):
        ET.SubElement(extent, name).text = repr(float(value))
    ET.SubElement(canvas, "rotation").text = "0"
    ET.SubElement(canvas, "destinationsrs").append(_reference(crs_of(grid)))
    described = ET.SubElement(root, "projectlayers")
    for i, layer in enumerate(layers):
        described.append(_described(layer, _id(i)))
    order = ET.SubElement(root, "layerorder")
    for i in range(len(layers)):
        ET.SubElement(order, "layer", id=_id(i))
    properties = ET.SubElement(root, "properties")
    ET.SubElement(ET.SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    ET.SubElement(ET.SubElement(properties, "SpatialRefSys"), "ProjectionsEnabled", type="int").text = "1"
    if grid.crs_wkt is None:
        ET.SubElement(ET.SubElement(properties, "Measure"), "Ellipsoid", type="QString").text = "NONE"
    ET.indent(root, " ")
    text = BytesIO()
    with zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(f"{path.stem}.qgs", _EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, "<!DOCTYPE qgis>\n" + ET.tostring(root, encoding="unicode"))
    path.write_bytes(text.getvalue())


def stretched(bands: Sequence[int]) -> ET.Element:
    """Pipe of a raster whose numbers are no colours: stretched from the 2nd to the 98th percentile of what is shown."""
    pipe = ET.Element("pipe")
    renderer = ET.SubElement(pipe, "rasterrenderer", opacity="1", alphaBand="-1")
    if len(bands) >= len(_COLORS):
        renderer.set("type", "multibandcolor")
        for color, band in zip(_COLORS, bands, strict=False):
            renderer.set(f"{color}Band", str(band))
            renderer.append(_enhanced(f"{color}ContrastEnhancement"))
    else:
        renderer.attrib |= {"type": "singlebandgray", "grayBand": str(bands[0]), "gradient": "BlackToWhite"}
        renderer.append(_enhanced("contrastEnhancement"))
    origin = ET.SubElement(renderer, "minMaxOrigin")
    for name, value in (
        ("limits", "CumulativeCut"), ("extent", "UpdatedCanvas"), ("statAccuracy", "Estimated"),
        ("cumulativeCutLower", "0.02"), ("cumulativeCutUpper", "0.98"), ("stdDevFactor", "2"),
    ):  # fmt: skip
        ET.SubElement(origin, name).text = value
    return pipe


def _enhanced(tag: str) -> ET.Element:
    """That values are stretched; QGIS finds between which, whenever it shows another part."""
    found = ET.Element(tag)
    for name, value in (("minValue", "0"), ("maxValue", "65535"), ("algorithm", "StretchToMinimumMaximum")):
        ET.SubElement(found, name).text = value
    return found


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    """Where the rasters lie in QGIS: left, bottom, right, top."""
    return (0, -grid.height, grid.width, 0) if rows_go_down(grid) else grid.bounds


def _id(number: int) -> str:
    return f"tileseg_layer_{number:03d}"  # QGIS takes none of ten characters or fewer


def _described(layer: MapLayer, name: str) -> ET.Element:
    found = ET.Element("maplayer", {"type": "raster"} if layer.is_raster else {"type": "vector", "geometry": "Polygon"})
    for tag, text in (("id", name), ("datasource", layer.source), ("layername", layer.name)):
        ET.SubElement(found, tag).text = text
    ET.SubElement(found, "srs").append(_reference(layer.crs_wkt))
    provider = ET.SubElement(found, "provider")
    provider.text = layer.provider
    if not layer.is_raster:
        provider.set("encoding", "UTF-8")
    found.extend(layer.style)
    return found


def _reference(wkt: str) -> ET.Element:
    reference = ET.Element("spatialrefsys", nativeFormat="Wkt")
    ET.SubElement(reference, "wkt").text = wkt
    return reference
