"""What a DICOM file says of its picture. Nothing of the patient is read: only the attributes that are named here.

Files lie by nature in strangers' hands: sizes are held against what is there before anything is allocated, and what
pydicom complains of is not repeated, for it quotes what the file says.
"""

from __future__ import annotations

import logging
import math
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileseg.errors import InputError, TilesegError, UsageError
from tileseg.storage.place import Named, SubDataset, printable
from tileseg.storage.protocol import Stamp
from tileseg.storage.store import at

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "InstanceNumber",
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "PlanarConfiguration",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""All that is read of a file."""

_FIRST = re.compile(rb"\x08\x00[\x00-\xff]\x00(?:[A-Z]{2}[\x00-\xff]{2}|[\x00-\xff]{2}\x00\x00)", re.DOTALL)
"""How files begin that lack the preamble: with an attribute of group 8."""

_IMPLICIT = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = {_IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
"""Transfer syntaxes in which pixels are not compressed."""

_NO_IMAGES = {
    "1.2.840.10008.1.3.10": "a directory of other files (DICOMDIR)",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation, so labels",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose grid",
    "1.2.840.10008.5.1.4.1.1.481.3": "a set of outlines (RT Structure Set)",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.104.1": "a document (PDF)",
    "1.2.840.10008.5.1.4.1.1.11.1": "a presentation state",
}

_KINDS = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3,
    "YBR_PARTIAL_420": 3, "YBR_ICT": 3, "YBR_RCT": 3,
}  # fmt: skip
"""Photometric interpretation -> samples of a pixel."""


@dataclass(frozen=True, slots=True)
class DicomFrame:
    """A picture of a DICOM file, by its name: ``ct.dcm``, or ``DICOM:3:ct.dcm`` for the third of several."""

    text: str
    """As the user named it."""
    file: Path
    number: int | None
    """From 1; None where the name says none."""

    @classmethod
    def parse(cls, path: str | Path) -> DicomFrame:
        """Take a name apart. A file may be called so, colons and all."""
        text = str(path)
        part = SubDataset.parse(text)
        if part is None or part.kind != "DICOM" or Path(text).exists():
            return cls(printable(text), Path(text).absolute(), None)
        return cls(printable(text), Path(part.file).absolute(), int(part.part))


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What the picture of one frame is."""

    sop_class: str
    sop_instance: str
    """Names the file among all; no name of a person."""
    series: str
    frame_of_reference: str | None
    transfer_syntax: str
    modality: str
    """CT, MR, US, ..."""
    rows: int
    columns: int
    samples: int
    photometric: str
    """Photometric interpretation: MONOCHROME1, RGB, ..."""
    bits_allocated: int
    """8, 16 or 32."""
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool
    """Whether colours are stored one after the other, and not pixel by pixel."""
    frames: int
    slope: float
    intercept: float
    """Stored values become ``value * slope + intercept``: Hounsfield units, of a CT."""
    has_lut: bool
    """Whether a table says instead what stored values mean (Modality LUT)."""
    padding: tuple[int, int] | None
    """Stored values from the first to the second are beside the picture: there are no data."""
    spacing: tuple[float, float] | None
    """Millimetres from a row to the next, and from a column to the next."""
    at_detector: bool
    """Whether the spacing is that at the detector: things are smaller than that."""
    position: tuple[float, ...] | None
    """Millimetres (x, y, z) of the first pixel's centre in the patient's coordinates."""
    orientation: tuple[float, ...] | None
    """Direction of rows (x, y, z), then of columns."""
    thickness: float | None
    """Millimetres of the slice."""
    instance: int | None
    """Number within its series."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame that is not compressed."""
        pixels = self.rows * self.columns
        samples = 2 if self.photometric == "YBR_FULL_422" and self.native else self.samples
        return -(-pixels * samples * self.bits_allocated // 8)

    @property
    def native(self) -> bool:
        """Whether pixels are not compressed."""
        return self.transfer_syntax in _NATIVE

    @property
    def grey(self) -> bool:
        """Whether pixels have one value, which is no number of a colour."""
        return self.photometric.startswith("MONOCHROME")

    @property
    def stored_range(self) -> tuple[int, int]:
        """Least and greatest value that may be stored."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def is_dicom(path: Named) -> bool:
    """Whether a path is a DICOM file, or names a frame of one."""
    if not isinstance(path, str | Path):
        return False
    part = SubDataset.parse(str(path))
    if part is not None and part.kind == "DICOM" and not Path(str(path)).exists():
        return True
    try:
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as stream:
            head = stream.read(132)
    except (OSError, ValueError):
        return False
    return _begins_so(head) or Path(path).suffix.lower() == ".dcm"


def _begins_so(head: bytes) -> bool:
    return head[128:132] == b"DICM" or _FIRST.match(head) is not None


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A DICOM file as far as it is read."""

    attributes: Dataset
    transfer_syntax: str
    size: int
    """Bytes."""
    pixels: int
    """At which byte the pixels begin; of compressed ones their table of offsets."""
    pixel_vr: str
    """Value representation of the pixels: OB or OW."""


def read_header(frame: DicomFrame, stamp: Stamp) -> DicomHeader:
    """What a file says of a frame. ``stamp``: that of the file. Raises InputError and UsageError in one line."""
    with pydicom_complaints(frame.text):
        return _Reader(frame, read_file(frame.file, stamp)).header()


@lru_cache(maxsize=4)
def read_file(file: Path, stamp: Stamp) -> DicomFile:
    """Read what is needed of a file. ``stamp`` makes what has changed another one."""
    del stamp
    pydicom = pydicom_module(str(file))
    with mapped(file) as data:
        if not _begins_so(data[:132]):
            raise InputError(f"{file}: does not begin as DICOM files do; was it damaged on the way, or only named so?")
        meta = pydicom.filereader.read_preamble(data, force=True)
        if meta is not None:
            group = pydicom.filereader._read_file_meta_info(data)  # noqa: SLF001 - its public form wants a path
            if str(group.get("TransferSyntaxUID", "")) == _DEFLATED:
                raise InputError(
                    f"{file}: is deflated as a whole, which is not read: such a file may unpack to any size; "
                    "rewrite it: dcmconv +te IN OUT"
                )
        data.seek(0)
        found = pydicom.dcmread(data, force=True, stop_before_pixels=True, specific_tags=list(_TAGS))
        syntax = str(found.file_meta.get("TransferSyntaxUID", "")) if hasattr(found, "file_meta") else ""
        if not syntax:
            implicit, little = found.original_encoding
            syntax = _IMPLICIT if implicit else f"{_IMPLICIT}.{1 if little else 2}"
        # pydicom stops before the pixels: their tag, representation and length come next.
        begin = data.tell()
        head = data[begin : begin + 12]
        if syntax == _IMPLICIT:
            return DicomFile(found, syntax, data.size(), begin + 8, "OW")
        return DicomFile(found, syntax, data.size(), begin + 12, head[4:6].decode("ascii", "replace"))


class _Reader:
    """Takes what is needed from the attributes of a file, and checks it."""

    def __init__(self, frame: DicomFrame, file: DicomFile) -> None:
        self._text, self._number, self._found, self._file = frame.text, frame.number, file.attributes, file
        self._groups: list[Any] = []

    def header(self) -> DicomHeader:
        sop_class = str(self._found.get("SOPClassUID", ""))
        if sop_class in _NO_IMAGES:
            raise InputError(f"{self._text}: is {_NO_IMAGES[sop_class]}, and no image")
        if "Rows" not in self._found or "Columns" not in self._found:
            raise InputError(f"{self._text}: is a DICOM file without an image (it has no rows and columns)")
        rows, columns, allocated = (self._whole(name, 1, 65535) for name in ("Rows", "Columns", "BitsAllocated"))
        photometric = str(self._found.get("PhotometricInterpretation", "MONOCHROME2")).strip()
        samples = self._whole("SamplesPerPixel", 1, 4, 1)
        if _KINDS.get(photometric) != samples:
            raise InputError(
                f"{self._text}: has pixels of {samples} values that are {photometric[:20]!r}; expected one of "
                f"{', '.join(_KINDS)} with as many values"
            )
        if allocated not in (8, 16, 32) or (samples == 3 and allocated != 8):
            raise InputError(
                f"{self._text}: has {allocated} bits for each of {samples} values of a pixel; expected 8, 16 or 32, "
                "or 3 values of 8"
            )
        stored = self._whole("BitsStored", 1, allocated, allocated)
        frames = self._whole("NumberOfFrames", 1, 1 << 20, 1)
        self._choose_frame(frames)
        slope, intercept = self._number_of("RescaleSlope", 1.0), self._number_of("RescaleIntercept", 0.0)
        if slope == 0:
            raise InputError(f"{self._text}: its rescale slope is 0, so all pixels are alike")
        spacing, at_detector = self._spacing()
        thickness = self._numbers("SliceThickness", 1)
        instance = self._numbers("InstanceNumber", 1)
        return DicomHeader(
            sop_class=sop_class,
            sop_instance=str(self._found.get("SOPInstanceUID", "")),
            series=str(self._found.get("SeriesInstanceUID", "")),
            frame_of_reference=str(self._found.get("FrameOfReferenceUID", "")) or None,
            transfer_syntax=self._file.transfer_syntax,
            modality=re.sub(r"[^A-Z]", "", str(self._found.get("Modality", "")))[:16],
            rows=rows,
            columns=columns,
            samples=samples,
            photometric=photometric,
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=self._whole("HighBit", stored - 1, allocated - 1, stored - 1),
            signed=self._whole("PixelRepresentation", 0, 1, 0) == 1,
            planar=self._whole("PlanarConfiguration", 0, 1, 0) == 1,
            frames=frames,
            slope=slope,
            intercept=intercept,
            has_lut="ModalityLUTSequence" in self._found,
            padding=self._padding(),
            spacing=spacing,
            at_detector=at_detector,
            position=self._numbers("ImagePositionPatient", 3),
            orientation=self._numbers("ImageOrientationPatient", 6),
            thickness=thickness[0] if thickness else None,
            instance=int(instance[0]) if instance else None,
        )

    def _choose_frame(self, frames: int) -> None:
        if self._number is not None and not 1 <= self._number <= frames:
            raise InputError(f"{self._text}: has no frame {self._number}; it has {frames}")
        for name, place in (
            ("PerFrameFunctionalGroupsSequence", (self._number or 1) - 1),
            ("SharedFunctionalGroupsSequence", 0),
        ):
            items = self._found.get(name)
            if items is not None and len(items) > place:
                self._groups.append(items[place])

    def _value(self, name: str) -> Any:
        """An attribute of the file, or of what it says of this frame: each lies in a group there."""
        for group in self._groups:
            for element in group:
                if element.VR == "SQ" and len(element.value) and name in element.value[0]:
                    return element.value[0].get(name)
        return self._found.get(name)

    def _numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """So many finite numbers; None where the file has none."""
        value = self._value(name)
        if value is None or value == "":
            return None
        values = (
            tuple(map(float, value)) if isinstance(value, Sequence) and not isinstance(value, str) else (float(value),)
        )
        return values if len(values) == count and all(map(math.isfinite, values)) else None

    def _number_of(self, name: str, default: float) -> float:
        found = self._numbers(name, 1)
        return default if found is None else found[0]

    def _whole(self, name: str, least: int, most: int, default: int | None = None) -> int:
        value = self._found.get(name)
        if value is None or value == "":
            if default is None:
                raise InputError(f"{self._text}: is a DICOM file that does not say its {name}")
            return default
        if not isinstance(value, int | str) or not least <= int(value) <= most:
            raise InputError(f"{self._text}: its {name} is not a number from {least} to {most}; the header is damaged")
        return int(value)

    def _padding(self) -> tuple[int, int] | None:
        low = self._found.get("PixelPaddingValue")
        if not isinstance(low, int):
            return None
        high = self._found.get("PixelPaddingRangeLimit")
        return (min(low, high), max(low, high)) if isinstance(high, int) else (low, low)

    def _spacing(self) -> tuple[tuple[float, float] | None, bool]:
        for name, at_detector in (
            ("PixelSpacing", False),
            ("NominalScannedPixelSpacing", False),
            ("ImagerPixelSpacing", True),
        ):
            found = self._numbers(name, 2)
            if found is not None and min(found) > 0:
                return (found[0], found[1]), at_detector
        return None, False


def stamp_of(frame: DicomFrame) -> Stamp:
    """Size and time of change of a file. Raises InputError where it is gone."""
    try:
        return at(frame.file).stamp()
    except TilesegError:
        raise
    except OSError as error:
        raise InputError(f"{frame.text}: cannot be opened: {error.strerror or error}") from error


@contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """A file in memory as far as it is looked at: reading more than there is gives what there is."""
    with file.open("rb") as stream:
        try:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise InputError(f"{file}: is empty (0 bytes); expected a DICOM file") from None
        with data:
            yield data


@contextmanager
def pydicom_complaints(text: str) -> Iterator[None]:
    """Turn whatever pydicom and its decoders raise into one line that quotes nothing of the file."""
    try:
        yield
    except TilesegError:
        raise
    except OSError as error:
        raise InputError(f"{text}: cannot be read: {error.strerror or 'it ends too early'}") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - parsers and decoders raise of damaged files whatever comes up
        raise InputError(
            f"{text}: is damaged, or no DICOM file that can be read ({type(error).__name__}); copy or download it again"
        ) from None


def pydicom_module(text: str) -> Any:
    """The library, which says nothing by itself: its warnings quote what files say of patients."""
    try:
        import pydicom
        import pydicom.config
        import pydicom.encaps
        import pydicom.filereader
        import pydicom.pixels
    except ImportError:
        raise UsageError(f'{text}: DICOM files are read by pydicom: pip install "tileseg[dicom]"') from None
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom
