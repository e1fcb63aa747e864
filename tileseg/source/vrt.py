"""Virtual rasters, written anew from what is understood of them.

GDAL never sees the file itself. Its elements and attributes are compared with a list of those that describe pixels;
whatever is not on the list is refused, so that a new element of GDAL, or an unusual spelling of an old one, opens no
other file. The result names every file by its absolute path and, where GDAL would have to guess, by its driver.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from tileseg.errors import InputError
from tileseg.window import Window

_LARGEST = 64 << 20
"""Bytes of text of a virtual raster, and of what is written of it and of those that it refers to."""

_NUMBERS = re.compile(r"(?:[-+\d.eE,:;\s]|nan|inf|NaN|Inf|None|NONE)*")
_WORD = re.compile(r"[\w ,.()+-]*")
_ANY = re.compile(r"[^\0]*")
_SRS = re.compile(
    r"(?![\s\S]*(?:grids|init)=(?!@null))\s*(?:[A-Z][A-Za-z0-9_]*\[[\s\S]*\]|[A-Z]+:[\w:.+-]+|\+proj=[\s\S]*|WGS84|WGS72|NAD27|NAD83|)\s*"
)
"""Coordinate reference systems by WKT, code or PROJ string: no address, and no grid that would be read or fetched."""


@dataclass(frozen=True, slots=True)
class _Element:
    """What an element of a virtual raster may hold."""

    name: str
    """As GDAL spells it."""
    children: tuple[str, ...] = ()
    """Names of the elements that may be in it."""
    text: re.Pattern[str] | None = None
    """What its own text must be; None: it has none."""
    attributes: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    """What its attributes must be."""


_SOURCES = ("SimpleSource", "ComplexSource", "AveragedSource", "KernelFilteredSource", "NoDataFromMaskSource")
_RECTANGLE = dict.fromkeys(("xOff", "yOff", "xSize", "ySize"), _NUMBERS)
_SIZES = ("RasterXSize", "RasterYSize", "BlockXSize", "BlockYSize")
_GCP = {"Id": _ANY, "Info": _ANY, **dict.fromkeys(("Pixel", "Line", "X", "Y", "Z"), _NUMBERS)}
_SYSTEM = {"dataAxisToSRSAxisMapping": _NUMBERS, "coordinateEpoch": _NUMBERS}


def _plain(text: re.Pattern[str], *names: str) -> tuple[_Element, ...]:
    return tuple(_Element(name, text=text) for name in names)


_ELEMENTS = {
    element.name.lower(): element
    for element in (
        _Element(
            "VRTDataset",
            ("SRS", "GeoTransform", "GCPList", "Metadata", "VRTRasterBand", "MaskBand", "BlockXSize", "BlockYSize",
             "GDALWarpOptions"),
            attributes={"rasterXSize": _NUMBERS, "rasterYSize": _NUMBERS, "subClass": re.compile("VRTWarpedDataset")},
        ),
        _Element(
            "VRTRasterBand",
            ("Description", "UnitType", "Offset", "Scale", "NoDataValue", "HideNoDataValue", "ColorInterp",
             "ColorTable", "CategoryNames", "Metadata", "MaskBand", "PixelFunctionType", "PixelFunctionArguments",
             "SourceTransferType", *_SOURCES),
            attributes={
                "dataType": _WORD, "band": _NUMBERS, "blockXSize": _NUMBERS, "blockYSize": _NUMBERS,
                "subClass": re.compile("VRTSourcedRasterBand|VRTWarpedRasterBand|VRTDerivedRasterBand"),
            },
        ),
        _Element("MaskBand", ("VRTRasterBand",)),
        *(
            _Element(
                name,
                ("SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "ScaleOffset", "ScaleRatio",
                 "Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "Clamp", "NODATA", "NoData", "LUT",
                 "ColorTableComponent", "UseMaskBand", "Kernel", "MaskValueThreshold", "RemappedValue", "OpenOptions"),
                attributes={"resampling": _WORD, "name": _WORD},
            )
            for name in _SOURCES
        ),
        _Element("SourceFilename", text=_ANY, attributes={"relativeToVRT": _WORD, "shared": _WORD}),
        _Element("SourceDataset", text=_ANY, attributes={"relativeToVRT": _WORD}),
        _Element("SourceProperties", attributes={"DataType": _WORD, **dict.fromkeys(_SIZES, _NUMBERS)}),
        _Element("SrcRect", attributes=_RECTANGLE),
        _Element("DstRect", attributes=_RECTANGLE),
        _Element("OpenOptions", ("OOI",)),
        _Element("OOI", text=_NUMBERS, attributes={"key": re.compile("OVERVIEW_LEVEL|NUM_THREADS")}),
        _Element("Kernel", ("Size", "Coefs"), attributes={"normalized": _NUMBERS}),
        _Element("GCPList", ("GCP",), attributes={"Projection": _SRS, **_SYSTEM}),
        _Element("GCP", attributes=_GCP),
        _Element("ColorTable", ("Entry",)),
        _Element("Entry", attributes={f"c{i}": _NUMBERS for i in range(1, 5)}),
        _Element("CategoryNames", ("Category",)),
        _Element("PixelFunctionArguments", attributes={"*": _WORD}),
        _Element("SRS", text=_SRS, attributes=_SYSTEM),
        *_plain(_ANY, "Description", "UnitType", "Category", "Cutline"),
        *_plain(_WORD, "ColorInterp", "PixelFunctionType", "SourceTransferType", "SourceBand", "ResampleAlg",
                "WorkingDataType", "UseMaskBand"),
        *_plain(_NUMBERS, "GeoTransform", "Offset", "Scale", "NoDataValue", "HideNoDataValue", "ScaleOffset",
                "ScaleRatio", "Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "NODATA", "LUT",
                "ColorTableComponent", "Size", "Coefs", "MaskValueThreshold", "RemappedValue", "BlockXSize",
                "BlockYSize", "WarpMemoryLimit", "MaxError", "SrcGeoTransform", "SrcInvGeoTransform",
                "DstGeoTransform", "DstInvGeoTransform", "SrcApproxErrorForward", "SrcApproxErrorReverse",
                "DstApproxErrorForward", "DstApproxErrorReverse", "Order", "Reversed", "SrcNoDataReal",
                "SrcNoDataImag", "DstNoDataReal", "DstNoDataImag", "SrcAlphaBand", "DstAlphaBand",
                "CutlineBlendDist"),
        _Element("Clamp", text=_WORD),
        # A scene that is warped, as gdalwarp -of VRT writes it: by control points or systems, not with a terrain model.
        _Element(
            "GDALWarpOptions",
            ("WarpMemoryLimit", "ResampleAlg", "WorkingDataType", "Option", "SourceDataset", "Transformer", "BandList",
             "SrcAlphaBand", "DstAlphaBand", "Cutline", "CutlineBlendDist"),
        ),
        _Element("Option", text=_WORD, attributes={"name": _WORD, "key": _WORD}),
        _Element("Transformer", ("ApproxTransformer", "GenImgProjTransformer")),
        _Element("ApproxTransformer", ("MaxError", "BaseTransformer")),
        _Element("BaseTransformer", ("GenImgProjTransformer",)),
        _Element(
            "GenImgProjTransformer",
            ("SrcGeoTransform", "SrcInvGeoTransform", "DstGeoTransform", "DstInvGeoTransform", "SrcApproxErrorForward",
             "SrcApproxErrorReverse", "DstApproxErrorForward", "DstApproxErrorReverse", "SrcGCPTransformer",
             "SrcTPSTransformer", "ReprojectTransformer"),
        ),
        _Element("SrcGCPTransformer", ("GCPTransformer",)),
        _Element("SrcTPSTransformer", ("TPSTransformer",)),
        _Element("GCPTransformer", ("Order", "Reversed", "GCPList")),
        _Element("TPSTransformer", ("Reversed", "GCPList")),
        _Element("ReprojectTransformer", ("ReprojectionTransformer",)),
        _Element("ReprojectionTransformer", ("SourceSRS", "TargetSRS", "Options")),
        _Element("Options", ("Option",)),
        *_plain(_SRS, "SourceSRS", "TargetSRS"),
        _Element("BandList", ("BandMapping",)),
        _Element("BandMapping", ("SrcNoDataReal", "SrcNoDataImag", "DstNoDataReal", "DstNoDataImag"),
                 attributes={"src": _NUMBERS, "dst": _NUMBERS}),
    )
}  # fmt: skip

_LEFT_OUT = {"overviewlist", "overview", "histograms", "gdalrasterattributetable", "pammetadata"}
"""Elements that decide no pixel: overviews would be other files again."""

_CODE = {"pixelfunctioncode", "pixelfunctionlanguage"}
"""Elements that bring a program."""

_RPC = re.compile(
    r"(LINE|SAMP|LAT|LONG|HEIGHT)_(OFF|SCALE)|(LINE|SAMP)_(NUM|DEN)_COEFF|(MIN|MAX)_(LONG|LAT)|ERR_(BIAS|RAND)"
)
"""Keys of rational polynomial coefficients."""


@dataclass(frozen=True, slots=True)
class VirtualRaster:
    """A virtual raster as GDAL gets it."""

    text: str
    """The XML that was written anew."""
    files: Mapping[Path, Window | None]
    """Every file behind it, and where its pixels may appear in the virtual raster; None: anywhere."""


Resolver = Callable[[str], tuple[str, Mapping[Path, Window | None]]]
"""Checks a file that a virtual raster refers to: how GDAL is to open it, and the files behind it."""


def rebuild(file: Path, shown: str, refer: Resolver) -> VirtualRaster:
    """Read a virtual raster and write it anew.

    ``shown``: its name in messages; ``refer`` is called with every reference to a file. Raises InputError, naming what
    is not read in virtual rasters.
    """
    if file.stat().st_size > _LARGEST:
        raise InputError(f"{shown}: a virtual raster of more than {_LARGEST >> 20} MiB of text is not read")
    data = file.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{shown}: a virtual raster with a document type is not read")
    try:
        root = ET.fromstring(data)  # noqa: S314 - entities are refused above
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{shown}: is a damaged virtual raster: {error}") from error
    if str(root.tag).lower() != "vrtdataset":
        raise InputError(f"{shown}: is no virtual raster of pixels: it is a <{root.tag}>, expected a <VRTDataset>")
    writer = _Writer(shown, refer)
    text = ET.tostring(writer.copy(root, None), encoding="unicode")
    if len(text) > _LARGEST:
        raise InputError(f"{shown}: with the virtual rasters that it refers to, it has more than 64 MiB of text")
    return VirtualRaster(text, writer.files)


class _Writer:
    """Copies what is understood of one virtual raster, and collects the files behind it."""

    def __init__(self, shown: str, refer: Resolver) -> None:
        self._shown = shown
        self._refer = refer
        self._known: dict[str, tuple[str, Mapping[Path, Window | None]]] = {}
        self.files: dict[Path, Window | None] = {}

    def copy(self, element: ET.Element, place: Window | None) -> ET.Element:
        """An element with all in it that is understood. ``place``: where the pixels of the source around it lie."""
        known = _ELEMENTS.get(str(element.tag).lower())
        if known is None:
            raise self._unknown(f"<{element.tag}>")
        made = ET.Element(known.name)
        for name, value in element.attrib.items():
            self._copy_attribute(known, made, name, value)
        if known.name in _SOURCES:
            place = _place(element)
        text = (element.text or "").strip()
        if known.name in ("SourceFilename", "SourceDataset"):
            self._copy_reference(made, text, place)
        elif text and (known.text is None or not known.text.fullmatch(text)):
            raise self._unknown(f"{text[:60]!r} in <{known.name}>")
        else:
            made.text = text or None
        allowed = {name.lower() for name in known.children}
        for child in element:
            tag = str(child.tag).lower()
            if tag in _LEFT_OUT:
                continue
            if tag in _CODE:
                raise InputError(f"{self._shown}: a virtual raster that brings its own program code is not read")
            if tag not in allowed:
                raise self._unknown(f"<{child.tag}> in <{known.name}>")
            if tag == "metadata":
                made.extend(_metadata(child))
                continue
            made.append(self.copy(child, place))
        return made

    def _copy_attribute(self, known: _Element, made: ET.Element, name: str, value: str) -> None:
        if known.name in ("SourceFilename", "SourceDataset") and name.lower() in ("relativetovrt", "shared"):
            return
        spelling = next((each for each in known.attributes if each.lower() == name.lower() or each == "*"), None)
        if spelling is None or not known.attributes[spelling].fullmatch(value):
            raise self._unknown(f'{name}="{value[:60]}" in <{known.name}>')
        made.set(name if spelling == "*" else spelling, value)

    def _copy_reference(self, made: ET.Element, reference: str, place: Window | None) -> None:
        if reference not in self._known:
            self._known[reference] = self._refer(reference)
        made.text, behind = self._known[reference]
        made.set("relativeToVRT", "0")
        for path in behind:
            before = self.files.get(path, place)
            self.files[path] = None if before is None or place is None else _around(before, place)

    def _unknown(self, what: str) -> InputError:
        return InputError(
            f"{self._shown}: has {what}, which tileseg does not read in a virtual raster; if you trust it, convert it: "
            f"gdal_translate {self._shown} copy.tif"
        )


def _metadata(element: ET.Element) -> list[ET.Element]:
    """What may stay of metadata. Most domains tell GDAL of other files, such as OVERVIEWS, and none is needed."""
    domain = element.get("domain", "")
    if domain not in ("", "RPC", "GEOLOCATION") or element.get("format"):
        return []
    made = ET.Element("Metadata", {"domain": domain} if domain else {})
    if domain == "GEOLOCATION":  # said, so that the scene is refused for it, but not where
        ET.SubElement(made, "MDI", {"key": "LINE_OFFSET"}).text = "0"
        return [made]
    for item in element:
        key, text = item.get("key", ""), (item.text or "").strip()
        if str(item.tag).lower() != "mdi" or (
            domain == "RPC" and not (_RPC.fullmatch(key) and _NUMBERS.fullmatch(text))
        ):
            continue
        ET.SubElement(made, "MDI", {"key": key}).text = text
    return [made]


def _place(source: ET.Element) -> Window | None:
    """Where the pixels of a source lie in the virtual raster; None: anywhere."""
    for child in source:
        if str(child.tag).lower() == "dstrect":
            given = {name.lower(): value for name, value in child.attrib.items()}
            try:
                x, y, width, height = (float(given[name]) for name in ("xoff", "yoff", "xsize", "ysize"))
            except (KeyError, ValueError):
                return None
            if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
                return None
            top, left = max(0, math.floor(y) - 1), max(0, math.floor(x) - 1)
            rows, cols = math.ceil(y + height) + 1 - top, math.ceil(x + width) + 1 - left
            return Window(top, left, rows, cols) if rows > 0 and cols > 0 else None
    return None


def _around(one: Window, other: Window) -> Window:
    """The least window that holds two."""
    top, left = min(one.row_off, other.row_off), min(one.col_off, other.col_off)
    bottom, right = max(one.row_stop, other.row_stop), max(one.col_stop, other.col_stop)
    return Window(top, left, bottom - top, right - left)
