"""Which images belong together, in which order, and how far they lie from each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tileseg.errors import InputError, UsageError
from tileseg.source.dicom_header import DicomFrame, DicomHeader, is_dicom, read_header, stamp_of

_DIRECTORY = "DICOMDIR"
_EVEN = 0.01
"""Share of the distance of two slices by which another distance may differ: positions are rounded."""


@dataclass(frozen=True, slots=True)
class Slice:
    """An image of a stack."""

    scene: str
    """As a run takes it: a file, or a frame of one."""
    file: Path
    frame: int
    """From 1; 1 in files of one frame."""
    header: DicomHeader

    @property
    def along(self) -> float | None:
        """Millimetres along the normal of the image; None where the file does not say where it lies."""
        if self.header.position is None or self.header.orientation is None:
            return None
        return float(np.dot(self.normal, self.header.position))

    @property
    def normal(self) -> tuple[float, float, float]:
        """Direction from slice to slice, in the patient's coordinates."""
        assert self.header.orientation is not None
        x, y, z = np.cross(self.header.orientation[:3], self.header.orientation[3:]).tolist()
        return x, y, z


@dataclass(frozen=True, slots=True)
class Stack:
    """Images of one series that lie behind one another, in their order."""

    slices: tuple[Slice, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        header = self.slices[0].header
        return len(self.slices), header.rows, header.columns

    @property
    def pixel(self) -> tuple[float, float] | None:
        """Millimetres from row to row and from column to column; None where a file does not say it."""
        spacings = {each.header.spacing for each in self.slices}
        return spacings.pop() if len(spacings) == 1 else None

    @property
    def distance(self) -> float | None:
        """Millimetres from slice to slice; None where they differ or nothing says it."""
        places = [each.along for each in self.slices]
        if len(places) < 2 or None in places:
            return None
        steps = np.diff(np.array(places, float))
        step = float(np.median(steps))
        return step if step > 0 and np.all(np.abs(steps - step) <= _EVEN * step) else None

    @property
    def thickness(self) -> float | None:
        """Millimetres that a slice stands for: the distance, or else what all files say that slices are thick."""
        if self.distance is not None:
            return self.distance
        said = {each.header.thickness for each in self.slices}
        thickness = said.pop() if len(said) == 1 else None
        return thickness if thickness is not None and thickness > 0 else None

    @property
    def told(self) -> str:
        """In a message."""
        count, rows, columns = self.size
        return f"{count} of {columns} x {rows} pixels ({self.slices[0].header.modality or 'unknown kind'})"


def read_stack(sources: Sequence[str | Path], number: int | None = None) -> tuple[Stack, tuple[str, ...]]:
    """The stack that files and folders hold, and what there is to say about it, one line each.

    ``number``: which one, from 1, where there are several. Raises InputError where there is none or the files are
    damaged, UsageError where it is not said which one.
    """
    images, others = _images(sources)
    if not images:
        raise InputError(
            f"{sources[0]}: no DICOM images there{f'; {others} file(s) are of another kind' if others else ''}"
        )
    stacks = _stacks(images)
    if number is not None and not 1 <= number <= len(stacks):
        raise UsageError(f"--stack {number}: there are {len(stacks)}")
    if number is None and len(stacks) > 1:
        listed = "; ".join(f"{i}: {stack.told}" for i, stack in enumerate(stacks[:8], 1))
        more = f"; and {len(stacks) - 8} more" if len(stacks) > 8 else ""
        raise UsageError(f"{sources[0]}: holds {len(stacks)} stacks; say with --stack which one: {listed}{more}")
    stack = stacks[(number or 1) - 1]
    notes = [f"{others} file(s) are no images, and are left out"] if others else []
    places = [each.along for each in stack.slices]
    if None in places:
        notes.append("not all images say where they lie: they are in the order of their numbers")
    elif len(set(places)) < len(places):
        notes.append("several images lie at one place (phases?): there is no volume")
    elif stack.distance is None and len(places) > 1:
        notes.append("slices do not lie at even distances: volumes are by the thickness that they say, without NIfTI")
    return stack, tuple(notes)


def _images(sources: Sequence[str | Path]) -> tuple[list[Slice], int]:
    """All images, each once, and how many other DICOM files there are in folders."""
    found: dict[str, Slice] = {}
    others = 0
    for source in sources:
        for file, is_asked in _files(Path(source)):
            frame = DicomFrame.parse(file)
            try:
                header = read_header(frame, stamp_of(frame))
            except InputError as error:
                no_image = "no image" in str(error) or "without an image" in str(error)
                if is_asked or not no_image:
                    raise
                others += 1
                continue
            for one in _frames(frame, header):
                found.setdefault(one.scene, one)
    return list(found.values()), others


def _files(source: Path) -> Iterator[tuple[Path, bool]]:
    """DICOM files, and whether one was asked for by its name."""
    if source.is_file() and source.name.upper() == _DIRECTORY:
        source = source.parent
    if source.is_dir():
        inside = (
            file for file in sorted(source.rglob("*")) if not any(part.endswith(".tileseg") for part in file.parts)
        )
        yield from ((file, False) for file in inside if file.name.upper() != _DIRECTORY and is_dicom(file))
    elif source.is_file():
        yield source, True
    else:
        raise InputError(f"{source}: no such file or folder")


def _frames(frame: DicomFrame, header: DicomHeader) -> Iterator[Slice]:
    if header.frames == 1:
        yield Slice(str(frame.file), frame.file, 1, header)
        return
    for number in range(1, header.frames + 1):
        scene = f"DICOM:{number}:{frame.file}"
        of_it = DicomFrame(frame.text, frame.file, number)
        yield Slice(scene, frame.file, number, read_header(of_it, stamp_of(of_it)))


def _stacks(images: Sequence[Slice]) -> list[Stack]:
    """Images of one series, size and direction each, the largest stack first."""
    kinds: defaultdict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for image in images:
        header = image.header
        way = None if header.orientation is None else tuple(round(value, 3) for value in header.orientation)
        kinds[header.series, header.rows, header.columns, header.photometric, way].append(image)
    stacks = [Stack(tuple(sorted(each, key=_order))) for each in kinds.values()]
    for stack in stacks:
        if any(one.along is None for one in stack.slices):
            stacks[stacks.index(stack)] = replace(stack, slices=tuple(sorted(stack.slices, key=_by_number)))
    return sorted(stacks, key=lambda stack: (-len(stack.slices), stack.slices[0].scene))


def _order(image: Slice) -> tuple[float, int, int, str]:
    return (math.inf if image.along is None else image.along, *_by_number(image))


def _by_number(image: Slice) -> tuple[int, int, str]:
    return image.header.instance or 0, image.frame, image.scene
