"""Labels as a Cloud-Optimised GeoTIFF: with colours, class names and overviews, for any GIS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tileseg.card import ClassInfo
from tileseg.grid import Grid
from tileseg.labels import Labels, halve
from tileseg.publish.cog import Layer, write_cogs
from tileseg.publish.qgis import looks_of, palette, style
from tileseg.source.label_raster import BACKGROUND
from tileseg.window import Window


def write_label_cog(
    path: Path,
    grid: Grid,
    classes: Sequence[ClassInfo],
    read: Callable[[Window], Labels],
    blocks: Iterable[Window],
    *,
    threads: int = 1,
) -> None:
    """Write labels as a Cloud-Optimised GeoTIFF, and their class names beside it (``.aux.xml``).

    ``read`` gives the labels (y, x) of a block; overviews hold the most frequent label of every 2 x 2 pixels, as the
    mosaic's pyramid does. The rest is as :func:`tileseg.publish.cog.write_cogs` says. Raises TilesegError if it cannot
    be written.
    """
    write_cogs([Layer(path, _ClassIds(classes))], grid, lambda block: [read(block)], blocks, threads=threads)


@dataclass(frozen=True, slots=True)
class _ClassIds:
    """Bytes that are ids of classes."""

    classes: Sequence[ClassInfo]

    def describe(self, band: ET.Element) -> None:
        """Colours, and names as categories and as tags."""
        tags = ET.SubElement(band, "Metadata")
        for i, info in enumerate(self.classes):
            ET.SubElement(tags, "MDI", key=f"class_{i}").text = info.name
        # GDAL knows no background; who vectorises this file is to leave out what a run does.
        background = ",".join(str(i) for i, info in enumerate(self.classes) if info.background)
        ET.SubElement(tags, "MDI", key=BACKGROUND).text = background
        ET.SubElement(band, "ColorInterp").text = "Palette"
        names = ET.SubElement(band, "CategoryNames")
        for info in self.classes:
            ET.SubElement(names, "Category").text = info.name
        band.append(self._color_table())

    def halve(self, values: Labels) -> Labels:
        """The most frequent of every 2 x 2."""
        return halve(values)

    def finish(self, file: Path) -> None:
        """Put a colour table of the classes alone beside the file, where GDAL looks first.

        TIFF's own has an entry for each of 256 values, and QGIS would list them all in its legend.
        """
        sidecar = Path(f"{file}.aux.xml")
        tree = ET.parse(sidecar)  # noqa: S314 - GDAL has just written it
        band = tree.getroot().find("PAMRasterBand")
        assert band is not None
        ET.SubElement(band, "ColorInterp").text = "Palette"
        band.append(self._color_table())
        tree.write(sidecar, encoding="utf-8")

    def style(self) -> str:
        """Colours and names of the classes."""
        return style(palette(looks_of(self.classes)))

    def _color_table(self) -> ET.Element:
        table = ET.Element("ColorTable")
        for info in self.classes:
            red, green, blue = bytes.fromhex(info.color.removeprefix("#"))
            ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
        return table
