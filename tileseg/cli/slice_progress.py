"""How a stack of scans shows itself: a batch whose scenes are alike."""

from __future__ import annotations

from tileseg.cli.batch_progress import BatchProgress


class SliceProgress(BatchProgress):
    """A :class:`tileseg.batch.listener.BatchListener` that says once what there is to say of every slice."""

    def __init__(self, slices: frozenset[str], *, quiet: bool, verbose: bool) -> None:
        """``slices``: what the scenes are called."""
        super().__init__(quiet=quiet, verbose=verbose)
        self._slices, self._said = slices, set[str]()

    def notice(self, text: str) -> None:
        """Say it, unless it was said of another slice already."""
        scene, _, what = text.partition(": ")
        said = what if scene in self._slices else text
        if said not in self._said:
            self._said.add(said)
            super().notice(said)
