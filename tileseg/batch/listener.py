"""Who receives the progress of a batch."""

from __future__ import annotations

from typing import Protocol

from tileseg.batch.report import SceneResult
from tileseg.run.ledger import BlockRecord
from tileseg.run.report import Silent


class BatchListener(Protocol):
    """Receives the progress of a batch, from several threads, one at a time."""

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, scenes: int) -> None:
        """The batch is about to look at ``scenes`` scenes."""

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
