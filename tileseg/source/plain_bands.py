"""Which bands are read of pictures that are grey or red, green, blue: scans and slides."""

from __future__ import annotations

from collections.abc import Sequence

from tileseg.errors import InputError, UsageError
from tileseg.source.protocol import ReadRequest


def choose_plain_bands(text: str, have: Sequence[str], wanted: ReadRequest) -> tuple[int, ...]:
    """Numbers of the bands, from 1, of a picture called ``text`` whose bands are called as ``have`` says.

    Raises InputError where it has no such bands, UsageError where more or fewer are chosen than are wanted.
    """
    words, expected = wanted.words, wanted.expected
    if wanted.bands is not None:
        if len(wanted.bands) != expected:
            raise UsageError(f"{words.option} names {len(wanted.bands)} bands; {words.taker} {expected}")
        return tuple(_number(text, have, band, words.option) for band in wanted.bands)
    if len(have) < expected:
        once = words.repeat.format(once=",".join(["1"] * expected))
        remedy = once if len(have) == 1 else words.remedy
        raise InputError(f"{text}: has {len(have)} band{'s' * (len(have) != 1)}; {words.taker} {expected}; {remedy}")
    if len(wanted.names) == expected and set(wanted.names) <= set(have):
        return tuple(have.index(name) + 1 for name in wanted.names)
    return tuple(range(1, expected + 1))


def _number(text: str, have: Sequence[str], band: int | str, option: str) -> int:
    if isinstance(band, int) and 1 <= band <= len(have):
        return band
    if isinstance(band, str) and band.lower() in have:
        return have.index(band.lower()) + 1
    listed = ", ".join(f"{i} ({name})" for i, name in enumerate(have, 1))
    raise InputError(f"{text}: has no band {band}: expected {option} with some of {listed}")
