"""How a batch tells what becomes of its scenes."""

from __future__ import annotations

from typing import Protocol

from tileseg.batch.report import SceneResult
from tileseg.run.ledger import BlockRecord
from tileseg.run.report import Silent


class BatchListener(Protocol):
    """Hears how a batch gets on; from several threads, one at a time."""

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, scenes: int) -> None:
        """So many scenes are about to be looked at."""

    def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
        """A block is finished."""

    def scene(self, result: SceneResult) -> None:
        """What became of a scene, until it is tried again."""


class SilentBatch:
    """A listener of a batch that passes nothing on."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def start(self, scenes: int) -> None:
        """Nothing."""

    def block(self, scene: str, record: BlockRecord, pixels: int) -> None:
        """Nothing."""

    def scene(self, result: SceneResult) -> None:
        """Nothing."""


class Notices(Silent):
    """A run's listener that passes notices on to a batch's listener."""

    def __init__(self, listener: BatchListener) -> None:
        self._listener = listener

    def notice(self, text: str) -> None:
        """Pass it on."""
        self._listener.notice(text)
