"""The pixels of one frame of a DICOM file, in the units that they stand for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError, UsageError
from tileseg.source.codestream import PictureSize, size_of
from tileseg.source.dicom_header import (
    DicomFile,
    DicomFrame,
    DicomHeader,
    mapped,
    pydicom_complaints,
    pydicom_module,
    read_file,
)
from tileseg.source.header import LARGEST_BLOCK
from tileseg.source.protocol import Mask, Pixels
from tileseg.storage.protocol import Stamp

_RLE = "1.2.840.10008.1.2.5"

_KEPT = 64 << 20
"""Bytes of decoded frames that a process keeps, and the last one in any case: blocks of a frame follow each other."""

_frames: OrderedDict[tuple[DicomFrame, Stamp], tuple[Pixels, Mask]] = OrderedDict()
_lock = threading.Lock()


def type_of(header: DicomHeader) -> str:
    """NumPy type of the pixels of a frame in the units that they stand for.

    Of a CT int16, where rescaling keeps whole numbers: what lies beyond is no Hounsfield unit of anything.
    """
    if not header.grey:
        return "uint8"
    whole = float(header.slope).is_integer() and float(header.intercept).is_integer()
    if header.has_lut or header.bits_allocated == 32 or not whole:
        return "float32"
    if (header.slope, header.intercept) == (1, 0):
        return f"{'' if header.signed else 'u'}int{header.bits_allocated}"
    ends = [value * header.slope + header.intercept for value in header.stored_range]
    for kind in ("int16", "uint16"):
        if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
            return kind
    return "int16" if header.modality == "CT" else "float32"


def frame_pixels(frame: DicomFrame, header: DicomHeader, stamp: Stamp) -> tuple[Pixels, Mask]:
    """Pixels (y, x, band) of a whole frame and valid (y, x): to be read only. ``stamp``: that of the file.

    Raises InputError where it cannot be decoded, or is not as large as the header says.
    """
    key = frame, stamp
    with _lock:  # decoders use as many cores as there are blocks, and all of these want the same frame
        if key not in _frames:
            with pydicom_complaints(frame.text):
                file = read_file(frame.file, stamp)
                _frames[key] = _in_units(header, _decoded(frame, header, file), file)
            while len(_frames) > 1 and sum(pixels.nbytes for pixels, _ in _frames.values()) > _KEPT:
                _frames.popitem(last=False)
        _frames.move_to_end(key)
        return _frames[key]


def _decoded(frame: DicomFrame, header: DicomHeader, file: DicomFile) -> npt.NDArray[np.generic]:
    """Stored values of a frame: (y, x), or (y, x, 3) in red, green, blue."""
    pydicom = pydicom_module(frame.text)
    decoder = _decoder(frame, header, pydicom)
    if header.frame_bytes > LARGEST_BLOCK:
        raise InputError(
            f"{frame.text}: has {header.columns} x {header.rows} pixels in one piece, {header.frame_bytes >> 20} MiB; "
            f"expected at most {LARGEST_BLOCK >> 20} MiB"
        )
    index = (frame.number or 1) - 1
    tables = [file.attributes.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    options = {"extended_offsets": tuple(tables)} if all(tables) and not header.native else {}
    with mapped(frame.file) as data:
        data.seek(file.pixels)
        if header.native:
            _check_length(frame, header, file, index)
        else:
            coded = pydicom.encaps.get_frame(data, index, number_of_frames=header.frames, **options)
            _check_codestream(frame, header, coded)
            data.seek(file.pixels)
        pixels, _ = decoder.as_array(
            data,
            index=index,
            # Rust's decoder of runs ends in a panic where runs are damaged, which is no error that can be caught.
            decoding_plugin="pydicom" if header.transfer_syntax == _RLE else "",
            pixel_keyword="PixelData",
            pixel_vr=file.pixel_vr,
            rows=header.rows,
            columns=header.columns,
            samples_per_pixel=header.samples,
            photometric_interpretation=header.photometric,
            planar_configuration=int(header.planar),
            bits_allocated=header.bits_allocated,
            bits_stored=header.bits_stored,
            pixel_representation=int(header.signed),
            number_of_frames=header.frames,
            **options,
        )
        return np.asarray(pixels)


def _decoder(frame: DicomFrame, header: DicomHeader, pydicom: Any) -> Any:
    """Raises InputError where nothing decodes such pixels, UsageError where a package does that is not there."""
    uid = pydicom.uid.UID(header.transfer_syntax)
    try:
        decoder = pydicom.pixels.get_decoder(uid)
    except NotImplementedError:
        kind = uid.name if uid.is_transfer_syntax else "nobody knows what"
        raise InputError(
            f"{frame.text}: its pixels are compressed as {kind}, "
            "which is not read; rewrite it: dcmdjpeg, dcmdjpls or gdcmconv --raw IN OUT"
        ) from None
    if not decoder.is_available:
        raise UsageError(f'{frame.text}: its pixels are compressed as {uid.name}: pip install "tileseg[dicom]"')
    return decoder


def _check_length(frame: DicomFrame, header: DicomHeader, file: DicomFile, index: int) -> None:
    there, needed = file.size - file.pixels, (index + 1) * header.frame_bytes
    if there < needed:
        raise InputError(
            f"{frame.text}: is truncated: {header.columns} x {header.rows} pixels of frame {index + 1} should end "
            f"{needed:,} bytes after they begin, but there are {max(0, there):,}; copy or download it again"
        )


def _check_codestream(frame: DicomFrame, header: DicomHeader, coded: bytes) -> None:
    """Hold what a compressed picture says of itself against the header: decoders allocate by it."""
    if header.transfer_syntax == _RLE:
        # Runs of at most 128 bytes are stored in 2, and at worst a byte more is stored for each 128.
        least, most = header.frame_bytes // 64, 64 + 2 * header.frame_bytes
        if not least <= len(coded) <= most:
            raise InputError(
                f"{frame.text}: frame {(frame.number or 1)} has {len(coded):,} bytes of runs, which do not make "
                f"{header.columns} x {header.rows} pixels; copy or download it again"
            )
        return
    said = size_of(coded)
    if said != PictureSize(header.rows, header.columns, header.samples):
        found = "says no size" if said is None else f"is {said.columns} x {said.rows} pixels of {said.samples} values"
        raise InputError(
            f"{frame.text}: its compressed picture {found}, the header says {header.columns} x {header.rows} of "
            f"{header.samples}; the file is damaged"
        )


def _in_units(header: DicomHeader, stored: npt.NDArray[Any], file: DicomFile) -> tuple[Pixels, Mask]:
    """Pixels (y, x, band) in the units that stored values stand for, and valid (y, x)."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    valid = np.ones(stored.shape[:2], np.bool_)
    if header.photometric == "PALETTE COLOR":
        colors = apply_color_lut(stored, file.attributes)
        shift = 8 * (colors.dtype.itemsize - 1)
        return np.ascontiguousarray((colors >> shift).astype(np.uint8)[..., :3]), valid
    if not header.grey:
        return np.ascontiguousarray(stored.astype(np.uint8, copy=False)), valid
    if header.padding is not None:
        low, high = header.padding
        valid = (stored < low) | (stored > high)
    if header.photometric == "MONOCHROME1":
        stored = sum(header.stored_range) - stored.astype(np.int64)
    kind = np.dtype(type_of(header))
    if header.has_lut:
        values = apply_modality_lut(stored, file.attributes).astype(kind)
    elif (header.slope, header.intercept) == (1, 0):
        values = stored.astype(kind)
    elif kind.kind == "f":
        values = (stored.astype(np.float64) * header.slope + header.intercept).astype(kind)
    else:
        whole = stored.astype(np.int64) * int(header.slope) + int(header.intercept)
        values = np.clip(whole, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)
    return np.ascontiguousarray(values[..., None]), valid
