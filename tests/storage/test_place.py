"""Names of places."""

from __future__ import annotations

import os

from tileseg.storage.place import fitting


def test_a_long_name_is_cut_to_what_disks_take() -> None:
    one, other = (fitting(f"{'ü' * 124}{end}", ".tileseg") for end in "ab")
    assert one != other
    assert len(os.fsencode(one)) <= 255
    assert one.startswith("ü" * 80)
    assert fitting("short", ".tileseg") == "short.tileseg"
