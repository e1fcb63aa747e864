"""Compute the blocks of a run that are not done yet, on workers here or elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from typing import TYPE_CHECKING

from tileseg.cluster import hardware
from tileseg.engine.kinds import engine_kind
from tileseg.errors import BlocksFailed, Interrupted, TilesegError, UsageError, first_line, root_of
from tileseg.run.finish import Stopwatch
from tileseg.run.folder import OpenRun
from tileseg.run.ledger import BlockRecord
from tileseg.run.main_guard import check_main_guard, worker_remedy
from tileseg.run.names import MOSAIC, STATE
from tileseg.run.prepare import PreparedRun, compute_threads
from tileseg.run.report import Listener

if TYPE_CHECKING:
    from tileseg.cluster.client import Workers
    from tileseg.cluster.failure import BlockFailure
    from tileseg.run.block import Job
    from tileseg.source.protocol import PixelSource


def make_job(opened: OpenRun) -> Job:
    """What workers need for any block. Reads the scene's statistics where the scaling wants them."""
    from tileseg.mosaic import Mosaic
    from tileseg.run.block import Job
    from tileseg.source.statistics import scaling_for

    prepared = opened.prepared
    return Job(
        # With the folder: an archive may hold the same scene twice.
        key=hashlib.sha256(f"{prepared.fingerprint} {prepared.folder.resolve()}".encode()).hexdigest()[:16],
        scene=prepared.scene,
        plan=prepared.plan,
        model=prepared.model.resolve(),
        scaling=scaling_for(prepared.card, prepared.scene, prepared.spec.value_window),
        merge=prepared.spec.merge,
        mosaic=Mosaic((prepared.folder / MOSAIC).resolve()),
        ledger=replace(opened.ledger, root=opened.ledger.root.resolve()),
        aoi=prepared.aoi,
        ignore=prepared.ignore,
        connectivity=prepared.spec.connectivity,
        compute_threads=compute_threads(prepared),
    )


@contextlib.contextmanager
def connected(
    prepared: PreparedRun, blocks: int, listener: Listener, others: Sequence[PixelSource] = ()
) -> Iterator[Workers]:
    """The workers for at most ``blocks`` blocks: on this machine, or where the spec says. The folder is held.

    ``others``: scenes that workers on other machines must be able to read as well. Raises UsageError, InputError or
    TilesegError where no worker can compute them.
    """
    from tileseg.cluster.admission import Needs
    from tileseg.cluster.connect import connect
    from tileseg.cluster.dashboard import dashboard, performance_report
    from tileseg.cluster.local import local_cluster

    spec, plan, remote = prepared.spec, prepared.plan, prepared.spec.remote
    with contextlib.ExitStack() as stack:
        if remote is None:
            gpus = hardware.detect().gpus if hardware.backend_has_cuda() else ()
            devices = [gpu.uuid or str(gpu.index) for gpu in gpus] if len(gpus) > 1 else []
            count = min(plan.workers, blocks)
            try:
                client = stack.enter_context(
                    local_cluster(count, plan.threads, compute_threads(prepared) or 1, devices)
                )
            except RuntimeError as error:
                raise TilesegError(
                    f"the worker processes did not start: {first_line(root_of(error))}; {worker_remedy()}"
                ) from error
        else:
            state = (prepared.folder / STATE).resolve()
            scenes, model = (prepared.scene, *others), prepared.model.resolve()
            card = prepared.card.using(plan.form)
            packages = engine_kind(plan.engine).packages
            needs = Needs(scenes, model, plan.form, card.digest, packages, state, plan.memory.worker, remote.gpu)
            client = stack.enter_context(connect(remote, needs, listener.notice))
        if address := dashboard(client):
            listener.notice(f"dashboard: {address}")
        if spec.performance_report is not None:
            stack.enter_context(performance_report(client, spec.performance_report, listener.notice))
        yield client


def compute(
    opened: OpenRun, listener: Listener, stop: threading.Event, clock: Stopwatch, workers: contextlib.ExitStack
) -> int:
    """Compute the blocks that are not done yet, here or on processes that end with ``workers``; how many they were.

    Raises BlocksFailed or Interrupted once those in flight are finished.
    """
    from tileseg.run.block import NETWORK_LOADED, segment_block

    plan, pending = opened.prepared.plan, opened.pending
    listener.start(opened.prepared, opened.done)
    if not pending:
        opened.ledger.forget_killed()
        NETWORK_LOADED.set()
        clock.lap("start")
        return 0
    job = make_job(opened)
    computed: set[int] = set()

    def on_done(record: BlockRecord) -> None:
        computed.add(record.index)
        for note in record.notes:
            listener.notice(note)
        listener.block(record, plan[record.index].core.pixels)

    if plan.workers == 0:
        from tileseg.cluster.threads import run_in_threads

        clock.lap("start")
        with opened.ledger.in_process():
            failures = run_in_threads(segment_block, job, pending, on_done, stop)
        NETWORK_LOADED.set()  # all may have been empty
    else:
        from tileseg.cluster.schedule import run_on_cluster
        from tileseg.cluster.settings import restore_path

        path = tuple(sys.path)
        client = workers.enter_context(connected(opened.prepared, len(pending), listener))
        clock.lap("start")
        failures = run_on_cluster(client, segment_block, job, pending, on_done, stop)
        wait((opened.preview,))  # the one other thread that may be importing
        restore_path(path)
    clock.lap("blocks")
    check_complete(opened, len(computed), failures)
    opened.ledger.forget_killed()
    return len(computed)


def apart_if_killed(opened: OpenRun, listener: Listener) -> OpenRun:
    """The run, computed by one worker process where a process that computed it itself was killed, perhaps by a block.

    Such a block is found out there, and takes no others with it. Where the user wants no processes, or a script must
    not have any, blocks are computed here all the same.
    """
    prepared = opened.prepared
    if prepared.plan.workers > 0 or prepared.spec.workers is not None or not opened.ledger.killed_in_process():
        return opened
    try:
        check_main_guard()
    except UsageError:
        return opened
    listener.notice(
        "the process before was killed while it computed blocks: those left are computed in a process of their own"
    )
    return replace(opened, prepared=replace(prepared, plan=replace(prepared.plan, workers=1)))


def check_complete(opened: OpenRun, computed: int, failures: Sequence[BlockFailure]) -> None:
    """Raise BlocksFailed if blocks failed, Interrupted if some were not even tried."""
    blocks = opened.prepared.plan.blocks
    if failures:
        reasons = list(dict.fromkeys(map(str, failures)))  # an unreadable model fails all blocks alike
        listed = "\n".join(f"  {reason}" for reason in reasons[:5])
        more = f"\n  and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        untried = len(opened.pending) - computed - len(failures)
        also = f" and {untried} were not tried" if untried else ""
        raise BlocksFailed(
            f"{opened.prepared.spec.scene}: {len(failures)} of {blocks} blocks could not be computed{also}; the others "
            f"are kept, and running the command again tries only these:\n{listed}{more}",
            hopeless=all(failure.hopeless for failure in failures) and not untried,
        )
    if computed < len(opened.pending):
        raise Interrupted(
            f"stopped: {opened.done + computed} of {blocks} blocks are done and kept; "
            "run the same command again to go on"
        )
