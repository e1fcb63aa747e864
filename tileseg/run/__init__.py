"""One run, from options to outputs: what the command line and the Python interface both call.

The room carries the name of the function that it is about, and Python puts a room that is imported into the place of
that name in the package. So the room can be called itself: ``tileseg.run(spec)``, whatever was imported before.
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
