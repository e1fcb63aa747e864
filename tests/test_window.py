import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileseg.errors import UsageError
from tileseg.window import Window, tile

windows = st.builds(Window, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60))


def pixels(window: Window) -> set[tuple[int, int]]:
    return {(r, c) for r in range(window.row_off, window.row_stop) for c in range(window.col_off, window.col_stop)}


@given(windows, windows)
def test_intersection_holds_the_pixels_that_both_have(a: Window, b: Window) -> None:
    both = a.intersection(b)
    assert (pixels(both) if both else set()) == pixels(a) & pixels(b)


@given(windows, st.integers(1, 70), st.integers(1, 70))
def test_tiles_cover_each_pixel_once(extent: Window, height: int, width: int) -> None:
    seen = [pixel for part in tile(extent, height, width) for pixel in pixels(part)]
    assert sorted(seen) == sorted(pixels(extent))


@given(windows, windows)
def test_relative_to_is_undone_by_shift(a: Window, b: Window) -> None:
    assert a.relative_to(b).shift(b.row_off, b.col_off) == a


def test_buffer_grows_all_sides() -> None:
    assert Window(3, 4, 5, 6).buffer(2) == Window(1, 2, 9, 10)


def test_empty_windows_and_negative_slices_are_refused() -> None:
    with pytest.raises(UsageError, match="0 rows x 3 columns"):
        Window(0, 0, 0, 3)
    with pytest.raises(UsageError, match="negative"):
        _ = Window(-1, 0, 2, 3).slices
