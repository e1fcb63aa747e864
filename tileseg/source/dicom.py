"""Scans: pictures of DICOM files, read by pydicom."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from affine import Affine

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.source.dicom_header import DicomFrame, DicomHeader, is_dicom, read_header, stamp_of
from tileseg.source.dicom_pixels import frame_pixels, type_of
from tileseg.source.plain_bands import choose_plain_bands
from tileseg.source.protocol import Mask, Pixels, ReadRequest
from tileseg.source.slide_file import is_slide
from tileseg.storage.place import Named, Places, Url, printable
from tileseg.storage.protocol import Stamp
from tileseg.window import Window

_MILLIMETRES = (
    'ENGCRS["Image of a scan, from its upper left corner",EDATUM["Scanner"],CS[Cartesian,2],'
    'AXIS["to the right (x)",unspecified],AXIS["down (y)",unspecified],LENGTHUNIT["millimetre",0.001]]'
)

_LOOKED_AT = 8
"""Files of a folder by which it is told what it holds."""


@dataclass(frozen=True, slots=True)
class DicomScene:
    """A frame of a DICOM file: a :class:`tileseg.source.protocol.PixelSource`.

    Frames are decoded whole; the last ones are kept for the next blocks.
    """

    frame: DicomFrame
    header: DicomHeader
    bands: tuple[int, ...]
    """Bands to be read, in the order of the network's input; the first is 1."""
    stamp: Stamp = field(repr=False)
    """Size and time of change of the file when it was opened."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it is read, one line each."""

    @property
    def path(self) -> str:
        """The file, or frame, as the user named it."""
        return self.frame.text

    @property
    def storage(self) -> str:
        """The file and the frame."""
        return f"DICOM:{self.frame.number or 1}:{self.frame.file}"

    @property
    def grid(self) -> Grid:
        """Millimetres from the upper left corner of the picture, where the file says how large pixels are."""
        size = self.header.rows, self.header.columns
        if self.header.spacing is None:
            return Grid(*size, Affine.identity())
        down, across = self.header.spacing
        return Grid(*size, Affine.scale(across, down), _MILLIMETRES)

    @property
    def dtype(self) -> str:
        """NumPy type of the pixels, in the units that stored values stand for."""
        return type_of(self.header)

    @property
    def palette(self) -> bool:
        """Whether the file stores numbers of colours."""
        return self.header.photometric == "PALETTE COLOR"

    @property
    def has_gaps(self) -> bool:
        """Whether some pixels may be padding."""
        return self.header.padding is not None or self.dtype == "float32"

    @property
    def identity(self) -> str:
        """Digest of the file's size and time of change, and of how its pixels are understood."""
        return hashlib.sha256(repr((self.stamp, self.frame.number or 1, self.header)).encode()).hexdigest()

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band), C-contiguous, and valid (y, x).

        Pixels without data get ``fill``, one value per band, if given. Raises InputError where the frame cannot be
        decoded, or the file has changed.
        """
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene of {self.grid.height} x {self.grid.width} pixels")
        pixels, valid = self._whole()
        rows, cols = window.slices
        cut = np.array(pixels[rows, cols][..., [band - 1 for band in self.bands]], order="C")
        data = valid[rows, cols].copy()
        if cut.dtype.kind == "f":
            data &= np.isfinite(cut).all(axis=2)
        if fill is not None and not data.all():
            cut[~data] = np.asarray(fill, cut.dtype)
        return cut, data

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at."""
        pixels, valid = self.read(window)
        rows, cols = (
            (np.arange(count) * size) // count for count, size in zip(shape, (window.height, window.width), strict=True)
        )
        return np.ascontiguousarray(pixels[rows][:, cols]), valid[rows][:, cols]

    def _whole(self) -> tuple[Pixels, Mask]:
        if stamp_of(self.frame) != self.stamp:
            raise InputError(
                f"{self.path}: has changed since the run began; put it back as it was, or start anew with --overwrite"
            )
        return frame_pixels(self.frame, self.header, self.stamp)


def open_dicom(path: Named, wanted: ReadRequest) -> DicomScene:
    """Describe a frame of a DICOM file. Raises InputError or UsageError in one line for whatever cannot be used."""
    frame = DicomFrame.parse(str(path))
    stamp = stamp_of(frame)
    header = read_header(frame, stamp)
    if header.frames > 1 and frame.number is None:
        raise InputError(
            f"{frame.text}: holds {header.frames} frames; name one of them, such as DICOM:1:{frame.text}, or take all: "
            f"tileseg scan {frame.text}"
        )
    bands = choose_plain_bands(frame.text, ("grey",) if header.grey else ("red", "green", "blue"), wanted)
    scene = DicomScene(frame, header, bands, stamp, _notes(header))
    frame_pixels(frame, header, stamp)  # what cannot be decoded is refused at once
    return scene


def _notes(header: DicomHeader) -> tuple[str, ...]:
    notes = []
    if header.modality == "CT" and header.grey:
        notes.append("its values are Hounsfield units")
    if header.photometric == "MONOCHROME1":
        notes.append("its values are turned over, so that what is shown bright is high (MONOCHROME1)")
    if header.photometric == "PALETTE COLOR":
        notes.append("its colour table is expanded to red, green, blue")
    if header.at_detector:
        notes.append("its pixels' size is that at the detector: things are somewhat smaller than they seem")
    return tuple(notes)


def is_series(named: Named) -> bool:
    """Whether a path is a folder whose first files are scans."""
    if isinstance(named, Url | Places):
        return False
    folder = Path(str(named))
    if not folder.is_dir():
        return False
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return any(is_dicom(file) and not is_slide(file) for file in islice(files, _LOOKED_AT))


def refuse_series(named: Named, wanted: ReadRequest) -> DicomScene:
    """Say what takes a series: a run takes one image."""
    del wanted
    raise InputError(
        f"{printable(str(named))}: is a folder of scans, and a run takes one image; all of them, in their order: "
        f"tileseg scan {shlex.quote(str(named))} --out FOLDER"
    )
