"""One run, from options to outputs."""

from __future__ import annotations

import contextlib
import threading
import time

from tileseg.cluster import hardware
from tileseg.run import pace
from tileseg.run.compute import apart_if_killed, compute
from tileseg.run.finish import Stopwatch, write_outputs
from tileseg.run.folder import begin, finished, hold
from tileseg.run.main_guard import check_main_guard
from tileseg.run.prepare import prepare
from tileseg.run.report import Listener, RunReport, Silent
from tileseg.spec import RunSpec


def run(spec: RunSpec, listener: Listener | None = None, stop: threading.Event | None = None) -> RunReport:
    """Segment a scene into ``spec.folder``, going on where an earlier run stopped.

    ``stop``: when set, blocks in flight are finished and kept, then Interrupted is raised. Raises UsageError (2),
    InputError (42), LockedError (75), BlocksFailed (1 or 42).
    """
    started = time.perf_counter()
    listener = listener or Silent()
    stop = stop or threading.Event()
    prepared = prepare(spec)
    if prepared.plan.workers > 0 and spec.remote is None:
        check_main_guard()
    if not spec.overwrite and (before := finished(prepared)):
        return before
    with hold(prepared, stop.set) as held, hardware.PeakMemory() as memory:
        if not spec.overwrite and (before := finished(prepared)):
            return before  # by another process, meanwhile
        # While workers start or the network is loaded, which leaves processors idle, the scene's picture is read.
        begun = apart_if_killed(begin(prepared, held), listener)
        for notice in begun.prepared.notices:
            listener.notice(notice)
        clock = Stopwatch(started)
        with contextlib.ExitStack() as workers:
            computed = compute(begun, listener, stop, clock, workers)
            # The workers end while the driver finishes: that takes a second or two of waiting.
            ending = threading.Thread(target=workers.pop_all().close, name="end-workers")
            ending.start()
        report = write_outputs(begun, listener, clock, computed, memory)
        ending.join()
        pace.remember(begun.prepared, report)
        return report
