"""Whole slides as OpenSlide and tifffile read them: levels, and regions that are the same whatever is asked for."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError, UsageError, first_line
from tileseg.source.header import LARGEST_BLOCK, MOST_PIXELS
from tileseg.source.slide_ome import OmeSlide, is_ome, is_ome_slide
from tileseg.source.slide_tiff import is_slide_tiff
from tileseg.storage.place import Named, Places, Url, printable
from tileseg.storage.protocol import Stamp
from tileseg.storage.store import at

ENDINGS = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi")
"""What files are called that only slides are."""

_TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of slides in DICOM."""

_HEAD = 1024

PIECE = 512
"""Side in pixels of the pieces in which a level is read.

OpenSlide interpolates where the sizes of a level are no whole fractions of the slide's, from the corner that is asked
for: the same pixel would differ between two regions. Pieces have the same corners for all.
"""

_KEPT = 96
"""Pieces that a process keeps, 1 MiB each: a block and its neighbour share them."""

_OPEN = 4
"""Slides that a process keeps open."""

Region = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Level:
    """One of the sizes in which a slide is stored."""

    number: int
    height: int
    width: int
    downsample: float
    """How many pixels of the slide a pixel is wide, as OpenSlide counts."""

    @property
    def scale(self) -> float:
        """How many pixels of the slide a pixel really is wide: a whole number where sizes were only rounded."""
        whole = round(self.downsample)
        return float(whole) if abs(self.downsample / whole - 1) * max(self.height, self.width) < 2 else self.downsample


@dataclass(frozen=True, slots=True)
class SlideFile:
    """What a slide is."""

    text: str
    """As the user named it."""
    path: str
    """Absolute."""
    stamp: Stamp
    """Size and time of change of the file."""
    vendor: str
    levels: tuple[Level, ...]
    microns: float | None
    """Micrometres per pixel of the slide; None where it does not say it."""


def is_slide(named: Named) -> bool:
    """Whether a path is a slide: by its ending, or, of TIFF and DICOM files, by what they say."""
    if isinstance(named, Url | Places):
        return False
    path = Path(str(named))
    try:
        if not path.is_file():
            return False
        if path.suffix.lower() in ENDINGS:
            return True
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
            if head[128:132] == b"DICM":
                return _WHOLE_SLIDE + b"\0" in head or _WHOLE_SLIDE + b"\x02" in head
            if head[:4] not in _TIFFS or not is_slide_tiff(stream):
                return False
    except (OSError, ValueError):
        return False
    if importlib.util.find_spec("openslide") is None or importlib.util.find_spec("tifffile") is None:
        return False  # GDAL reads it, too, at its full size
    if is_ome(str(named)):
        return is_ome_slide(str(named))
    return _openslide(str(named)).OpenSlide.detect_format(str(named)) is not None


def open_slide_file(named: Named) -> SlideFile:
    """Describe a slide. Raises InputError or UsageError in one line."""
    path = str(Path(str(named)).absolute())
    text = printable(str(named))
    stamp = _stamp(text, path)
    with _complaints(text, "", path), _opened(text, path, stamp) as slide:
        sizes = zip(slide.level_dimensions, slide.level_downsamples, strict=True)
        levels = tuple(Level(i, rows, cols, float(by)) for i, ((cols, rows), by) in enumerate(sizes))
        microns, vendor = _microns(slide), str(slide.properties.get("openslide.vendor", ""))
    if not levels or levels[0].height * levels[0].width > MOST_PIXELS:
        raise InputError(f"{text}: has no pixels, or more than a slide can have; its header must be damaged")
    return SlideFile(text, path, stamp, vendor, levels, microns)


def read_region(slide: SlideFile, level: Level, row: int, col: int, height: int, width: int) -> Region:
    """(y, x, red-green-blue-alpha) pixels of a window of a level, put together of pieces.

    Raises InputError where the slide cannot be read, or has changed since it was opened.
    """
    if _stamp(slide.text, slide.path) != slide.stamp:
        raise InputError(
            f"{slide.text}: has changed since the run began; put it back as it was, or start anew with --overwrite"
        )
    out = np.empty((height, width, 4), np.uint8)
    for top in range(row // PIECE * PIECE, row + height, PIECE):
        for left in range(col // PIECE * PIECE, col + width, PIECE):
            piece = _piece(slide, level, top, left)
            rows = slice(max(row, top), min(row + height, top + PIECE))
            cols = slice(max(col, left), min(col + width, left + PIECE))
            out[rows.start - row : rows.stop - row, cols.start - col : cols.stop - col] = piece[
                rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
            ]
    return out


_pieces: OrderedDict[tuple[str, Stamp, int, int, int], Region] = OrderedDict()
_slides: OrderedDict[tuple[str, Stamp], Any] = OrderedDict()
_lock = threading.Lock()


def _piece(slide: SlideFile, level: Level, top: int, left: int) -> Region:
    key = slide.path, slide.stamp, level.number, top, left
    with _lock:
        if key in _pieces:
            _pieces.move_to_end(key)
            return _pieces[key]
    size = min(PIECE, level.width - left), min(PIECE, level.height - top)
    place = round(left * level.downsample), round(top * level.downsample)
    where = f" at rows {top} to {top + size[1]}, columns {left} to {left + size[0]} of level {level.number}"
    with _complaints(slide.text, where, slide.path), _opened(slide.text, slide.path, slide.stamp) as opened:
        pixels = np.asarray(opened.read_region(place, level.number, size))
    with _lock:
        _pieces[key] = pixels
        while len(_pieces) > _KEPT:
            _pieces.popitem(last=False)
    return pixels


@contextmanager
def _opened(text: str, path: str, stamp: Stamp) -> Iterator[Any]:
    """The open slide, shared by all threads: OpenSlide allows it. One that failed is not used again."""
    openslide = _openslide(text)
    with _lock:
        slide = _slides.get((path, stamp))
        if slide is None:
            _check_tiles(text, path)
            by_tifffile = path.lower().endswith(_TIFF_ENDINGS) and is_ome(path)
            slide = _slides[path, stamp] = OmeSlide(path) if by_tifffile else openslide.OpenSlide(path)
            while len(_slides) > _OPEN:
                _slides.popitem(last=False)  # closed when the last thread is done with it
        _slides.move_to_end((path, stamp))
    try:
        yield slide
    except openslide.OpenSlideError:
        with _lock:
            _slides.pop((path, stamp), None)
        raise


def _check_tiles(text: str, path: str) -> None:
    """Refuse a TIFF that claims more than it has: OpenSlide ends the process where memory does not suffice for it."""
    with Path(path).open("rb") as stream:
        if stream.read(4) not in _TIFFS:
            return
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    size, held, claimed = Path(path).stat().st_size, 0, 0
    try:
        with tifffile.TiffFile(path) as file:
            for page in file.pages:
                assert isinstance(page, tifffile.TiffPage)
                held = max(held, page.tilelength * page.tilewidth * 4 if page.is_tiled else 0)
                claimed = max(claimed, *page.databytecounts, *(tag.valuebytecount for tag in page.tags))
    except Exception as error:  # noqa: BLE001 - tifffile raises of damaged files whatever comes up
        raise InputError(f"{text}: is a damaged TIFF ({type(error).__name__}); copy or download it again") from None
    if claimed > size:
        raise InputError(
            f"{text}: claims a part of {claimed:,} bytes, but has {size:,}; it is damaged: copy or download it again"
        )
    if held > LARGEST_BLOCK:
        raise InputError(f"{text}: claims tiles of {held >> 20} MiB; expected at most {LARGEST_BLOCK >> 20} MiB")


@contextmanager
def _complaints(text: str, where: str, path: str) -> Iterator[None]:
    openslide = _openslide(text)
    try:
        yield
    except openslide.OpenSlideUnsupportedFormatError:
        raise InputError(
            f"{text}: is no slide that OpenSlide reads; export it as pyramidal TIFF, with bfconvert for example"
        ) from None
    except openslide.OpenSlideError as error:
        complaint = first_line(error).replace(path, Path(path).name)
        raise InputError(f"{text}: cannot be read{where}: {complaint}; copy or download it again") from None
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(f"{text}: cannot be read{where}: {first_line(error)}") from None


def _microns(slide: Any) -> float | None:
    """Micrometres per pixel, mean over both ways."""
    try:
        across, down = (float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    return float(np.sqrt(across * down)) if 0 < across < np.inf and 0 < down < np.inf else None


def _stamp(text: str, path: str) -> Stamp:
    try:
        return at(Path(path)).stamp()
    except OSError as error:
        raise InputError(f"{text}: cannot be opened: {error.strerror or error}") from error


def _openslide(text: str) -> Any:
    try:
        import openslide
    except (ImportError, OSError):
        raise UsageError(f'{text}: slides are read by OpenSlide: pip install "tileseg[slides]"') from None
    return openslide
