"""What is known of a pixel beside its label, as bytes with a stated scale: probabilities, say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tileseg.labels import BYTE_STEPS, halve_mean
from tileseg.publish.cog import Bytes
from tileseg.publish.qgis import ramp, style


@dataclass(frozen=True, slots=True)
class Measure:
    """Bytes that are a quantity: ``value = byte * scale``, as GDAL's scale and offset say."""

    description: str
    """What the band is called."""
    scale: float
    """Of one step."""

    def describe(self, band: ET.Element) -> None:
        """Name, scale and offset."""
        ET.SubElement(band, "Description").text = self.description
        ET.SubElement(band, "ColorInterp").text = "Gray"
        ET.SubElement(band, "Offset").text = "0"
        ET.SubElement(band, "Scale").text = repr(self.scale)

    def halve(self, values: Bytes) -> Bytes:
        """The mean of every 2 x 2, of those that have data."""
        return halve_mean(values)

    def finish(self, file: Path) -> None:
        """Nothing: TIFF keeps all of it."""

    def style(self) -> str:
        """From dark to light, from 0 to the highest value that bytes have."""
        return style(ramp(BYTE_STEPS * self.scale))
