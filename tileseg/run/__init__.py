"""Segment a scene: ``report = tileseg.run(tileseg.RunSpec(scene="scene.tif", out="scene.tileseg"))``.

What the command line calls, too. :func:`tileseg.run.scene.run` says what is given and what comes back,
:class:`tileseg.RunSpec` which options there are, :class:`tileseg.RunReport` what a report holds.

The room carries the name of the function that it is about, and Python puts a room that is imported into the place of
that name in the package. So the room can be called itself, whatever was imported before.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tileseg.run.report import Listener, RunReport
    from tileseg.spec import RunSpec


class _Room(ModuleType):
    def __call__(
        self, spec: RunSpec, listener: Listener | None = None, stop: threading.Event | None = None
    ) -> RunReport:
        """Segment a scene: see :func:`tileseg.run.scene.run`."""
        from tileseg.run.scene import run

        return run(spec, listener, stop)


sys.modules[__name__].__class__ = _Room
