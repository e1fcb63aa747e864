"""How a batch shows itself: one line per scene."""

from __future__ import annotations

from tileseg.batch.report import SceneResult
from tileseg.cli.line import visible
from tileseg.cli.live import LiveView
from tileseg.run.ledger import BlockRecord


class BatchProgress(LiveView):
    """A :class:`tileseg.batch.listener.BatchListener` on standard error: one line per scene."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        super().__init__(quiet=quiet)
        self._verbose = verbose
        self._scenes = 0
        self._seen: set[str] = set()
        self._locked: set[str] = set()

    def start(self, scenes: int) -> None:
        """Begin to count."""
        self._scenes = scenes

    def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
        """A block is finished."""
        if self._verbose:
            self.console.print(f"{scene}: block {record.index}, {pixels} pixels")

    def scene(self, result: SceneResult) -> None:
        """What became of a scene."""
        self._seen.add(result.folder)
        if result.status == "locked":
            if result.folder in self._locked:
                return  # one that is waited for is asked again and again
            self._locked.add(result.folder)
        reason = result.message.removeprefix(f"{result.scene}: ")
        what = f"{result.status}: {reason}" if reason else result.status
        if result.status == "done":
            what = f"done, {result.blocks} block(s), {result.polygons} polygon(s), {result.seconds:.1f} s"
        style = {"failed": "red", "unusable": "red", "locked": "yellow"}.get(result.status)
        line = visible(f"[{len(self._seen)}/{self._scenes}] {result.scene}: {what}")
        self.console.print(line, style=style)
