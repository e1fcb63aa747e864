"""A rectangle of pixels: integers only."""

from __future__ import annotations

from dataclasses import dataclass

from tileseg.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of whole pixels on a scene's grid. Offsets may be negative: a halo reaches past the edge."""

    row_off: int
    """First row, counted from the grid's top row."""
    col_off: int
    """First column, counted from the grid's left column."""
    height: int
    """Rows, at least 1."""
    width: int
    """Columns, at least 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(f"a window needs at least one pixel, not {self.height} rows x {self.width} columns")

    @property
    def row_stop(self) -> int:
        """The row after the last."""
        return self.row_off + self.height

    @property
    def col_stop(self) -> int:
        """The column after the last."""
        return self.col_off + self.width

    @property
    def pixels(self) -> int:
        """How many pixels it holds."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns), to index an array (y, x) that starts at the grid's origin. Offsets must not be negative."""
        if self.row_off < 0 or self.col_off < 0:
            raise UsageError(f"a window with negative offsets cannot index an array: {self}")
        return slice(self.row_off, self.row_stop), slice(self.col_off, self.col_stop)

    def buffer(self, pixels: int) -> Window:
        """The window grown by ``pixels`` on all four sides."""
        return Window(self.row_off - pixels, self.col_off - pixels, self.height + 2 * pixels, self.width + 2 * pixels)

    def shift(self, rows: int, cols: int) -> Window:
        """The window moved down by ``rows`` and right by ``cols``."""
        return Window(self.row_off + rows, self.col_off + cols, self.height, self.width)

    def relative_to(self, other: Window) -> Window:
        """The same pixels, counted from the first pixel of ``other``."""
        return self.shift(-other.row_off, -other.col_off)

    def intersection(self, other: Window) -> Window | None:
        """The pixels that both have, or None."""
        row_off, col_off = max(self.row_off, other.row_off), max(self.col_off, other.col_off)
        height = min(self.row_stop, other.row_stop) - row_off
        width = min(self.col_stop, other.col_stop) - col_off
        return Window(row_off, col_off, height, width) if height > 0 and width > 0 else None

    def __str__(self) -> str:
        return f"rows {self.row_off}-{self.row_stop - 1}, columns {self.col_off}-{self.col_stop - 1}"


def tile(extent: Window, height: int, width: int) -> list[Window]:
    """Cut ``extent`` into windows of ``height`` x ``width``, row by row; the last of a row or column may be smaller."""
    return [
        Window(row, col, min(height, extent.row_stop - row), min(width, extent.col_stop - col))
        for row in range(extent.row_off, extent.row_stop, height)
        for col in range(extent.col_off, extent.col_stop, width)
    ]
