"""What all commands that take long share: notices and one live line on standard error."""

from __future__ import annotations

from typing import Self

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from tileseg.cli.line import visible

PLAIN_SECONDS = 10.0
"""Between two plain lines where there is no terminal."""


class LiveView:
    """Lines on standard error, and one live line where it is a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        # Names of files may look like rich's markup.
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_live(self) -> bool:
        """Whether there is a live line."""
        return self._bar is not None

    def close(self) -> None:
        """End the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""
        self.console.print(Text(f"note: {visible(text)}", style="yellow"))

    def show(self, *columns: bars.ProgressColumn, **task: object) -> None:
        """Begin a live line of a spinner, a bar and ``columns``, where there is a terminal; ``task`` fills them."""
        if not self.console.is_terminal:
            return
        spinner, bar = bars.SpinnerColumn(), bars.BarColumn(bar_width=24)
        self._bar = bars.Progress(spinner, bar, *columns, console=self.console, transient=True)
        self._task = self._bar.add_task(**{"description": "", **task})  # type: ignore[arg-type]
        self._bar.start()

    def update(self, **task: object) -> None:
        """Change what the live line shows, if there is one."""
        if self._bar is not None:
            self._bar.update(self._task, **task)  # type: ignore[arg-type]
