"""Styles as QGIS writes them (``.qml``): polygons, labels and measures come up in their classes' colours.

Symbols are written as QGIS 3 reads them, with properties both in the older form (``prop``) and the newer (``Option``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

from tileseg.card import ClassInfo
from tileseg.formats import STYLE

_VERSION = "3.22.0"
_MADE = "<!-- made by tileseg -->"
"""In each style: one that QGIS saved in its place has it no more, and is somebody's own."""
_FILL = 56
"""Of 255: how much of what lies under a polygon its fill hides."""
_STEPS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_VIRIDIS = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#fde725")
"""Colours of the steps, from low to high: dark to light, so that they are told without telling hues."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a class is shown."""

    value: int
    """Its id."""
    name: str
    color: str
    """``#rrggbb``."""


def looks_of(classes: Iterable[ClassInfo]) -> list[Look]:
    """The classes of a card."""
    return [Look(i, info.name, info.color) for i, info in enumerate(classes)]


def by_class(looks: Sequence[Look]) -> ET.Element:
    """Renderer of polygons: outlines in the colours of their classes, by the attribute ``class``, and a light fill."""
    renderer = ET.Element(
        "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0", enableorderby="0", forceraster="0"
    )
    categories = ET.SubElement(renderer, "categories")
    for i, look in enumerate(looks):
        ET.SubElement(categories, "category", value=str(look.value), label=look.name, symbol=str(i), render="true")
    _symbols(renderer, [look.color for look in looks])
    return renderer


def by_probability() -> ET.Element:
    """Renderer of polygons: from uncertain to certain, by the attribute ``mean_probability``."""
    renderer = ET.Element(
        "renderer-v2", type="graduatedSymbol", attr="mean_probability", graduatedMethod="GraduatedColor",
        symbollevels="0", enableorderby="0", forceraster="0",
    )  # fmt: skip
    ranges = ET.SubElement(renderer, "ranges")
    for i, (low, high) in enumerate(pairwise(_STEPS)):
        text = f"{low:.0%} to {high:.0%}" if i else f"below {high:.0%}"
        ET.SubElement(
            ranges, "range", lower=repr(low), upper=repr(high), label=text, symbol=str(i), render="true"
        )  # fmt: skip
    _symbols(renderer, _VIRIDIS)
    return renderer


def palette(looks: Sequence[Look]) -> ET.Element:
    """Pipe of a raster of class ids: the colours of its classes, and their names."""
    pipe = ET.Element("pipe")
    renderer = ET.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1")
    entries = ET.SubElement(renderer, "colorPalette")
    for look in looks:
        ET.SubElement(entries, "paletteEntry", value=str(look.value), color=look.color, label=look.name, alpha="255")
    return pipe


def ramp(highest: float) -> ET.Element:
    """Pipe of a raster of values from 0 on, such as probabilities, whose highest is 1."""
    pipe = ET.Element("pipe")
    renderer = ET.SubElement(
        pipe, "rasterrenderer", type="singlebandpseudocolor", band="1", opacity="1", alphaBand="-1",
        classificationMin="0", classificationMax=f"{highest:g}",
    )  # fmt: skip
    shader = ET.SubElement(ET.SubElement(renderer, "rastershader"), "colorrampshader")
    shader.attrib |= {"colorRampType": "INTERPOLATED", "classificationMode": "2", "clip": "0"}
    for i, color in enumerate(_VIRIDIS):
        value = highest * i / (len(_VIRIDIS) - 1)
        ET.SubElement(shader, "item", value=f"{value:g}", color=color, label=f"{value:g}", alpha="255")
    return pipe


def style(*parts: ET.Element) -> str:
    """A style's file, of a renderer or a pipe."""
    root = ET.Element("qgis", version=_VERSION, styleCategories="Symbology")
    root.extend(parts)
    ET.SubElement(root, "blendMode").text = "0"
    ET.indent(root, " ")
    return f"<!DOCTYPE qgis>\n{_MADE}\n{ET.tostring(root, encoding='unicode')}\n"


def write_style(beside: Path, text: str) -> Path:
    """Write a style where QGIS looks for that of a file, and return its path; one that is somebody's own stays."""
    path = beside.with_suffix(STYLE)
    if not (path.exists() and _MADE not in path.read_text(encoding="utf-8", errors="replace")):
        path.write_text(text, encoding="utf-8")
    return path


def _symbols(renderer: ET.Element, colors: Sequence[str]) -> None:
    symbols = ET.SubElement(renderer, "symbols")
    for i, color in enumerate(colors):
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(i), alpha="1", clip_to_extent="1")
        layer = ET.SubElement(
            symbol, "layer", attrib={"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
        )
        rgb = ",".join(str(part) for part in bytes.fromhex(color.removeprefix("#")))
        _properties(
            layer,
            {
                "color": f"{rgb},{_FILL}", "style": "solid", "joinstyle": "round", "outline_color": f"{rgb},255",
                "outline_style": "solid", "outline_width": "0.5", "outline_width_unit": "MM",
            },
        )  # fmt: skip


def _properties(layer: ET.Element, values: Mapping[str, str]) -> None:
    options = ET.SubElement(layer, "Option", type="Map")
    for name, value in values.items():
        ET.SubElement(options, "Option", name=name, value=value, type="QString")
    for name, value in values.items():
        ET.SubElement(layer, "prop", k=name, v=value)
