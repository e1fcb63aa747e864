"""A nightly archive as a Prefect flow, by the same Python interface that ``tileseg batch`` calls.

::

    pip install prefect                              # beside tileseg; 3.6 or later
    python workflows/prefect/nightly.py archive/scenes --out archive/results --once
    python workflows/prefect/nightly.py archive/scenes --out archive/results --cron '30 1 * * *'

The first runs the flow now. The second serves it: it stays, runs the flow by that schedule, and ``prefect deployment
run tileseg-archive/nightly`` runs it at once. Both use the Prefect server of PREFECT_API_URL where there is one.

What to expect: a line per scene in the flow's log; what is new, changed or has failed before is done, the rest is
skipped. What may pass (exit code 1) is tried again three times, ever later; what is useless to try again (2, 42) is
not: the flow has failed then, with the scenes that somebody has to look at, and all others are done. Either way the
catalogue is written, and with --merge one layer of all polygons.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task
from prefect.tasks import exponential_backoff

from tileseg.batch.archive import run_batch
from tileseg.batch.catalogue import write_catalogue
from tileseg.batch.layer import write_layer
from tileseg.batch.listener import SilentBatch
from tileseg.batch.sources import read_sources
from tileseg.batch.spec import BatchSpec
from tileseg.errors import InputError, TilesegError, UsageError

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

    from tileseg.batch.report import SceneResult

USELESS = (UsageError.exit_code, InputError.exit_code)


class Lines(SilentBatch):
    """Puts a line per scene into the flow's log."""

    def __init__(self) -> None:
        self._logger = get_run_logger()

    def notice(self, text: str) -> None:
        """What the user should know."""
        self._logger.warning(text)

    def scene(self, result: SceneResult) -> None:
        """What became of a scene."""
        self._logger.info("%s: %s%s", result.scene, result.status, f": {result.message}" if result.message else "")


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, TilesegError) and error.exit_code in USELESS)


@task(retries=3, retry_delay_seconds=exponential_backoff(backoff_factor=60), retry_condition_fn=may_pass)
def segment(sources: list[str], out: str, options: dict[str, Any]) -> dict[str, int]:
    """Do what there is to do; scenes by status. Raises what :class:`tileseg.errors.TilesegError` fits the outcome."""
    report = run_batch(BatchSpec(read_sources(sources), Path(out), options), Lines())
    counts = {str(status): count for status, count in report.counts.items() if count}
    if report.exit_code:
        kind = {UsageError.exit_code: UsageError, InputError.exit_code: InputError}.get(report.exit_code, TilesegError)
        raise kind(f"{counts}: see {report.folder / 'batch.csv'}")
    return counts


@task
def publish(out: str, merged: str | None) -> None:
    """Write the catalogue of all finished scenes, and one layer of their polygons."""
    if write_catalogue(Path(out)) and merged is not None:
        write_layer(Path(out), Path(merged))


@flow(name="tileseg-archive")
def archive(sources: list[str], out: str, options: dict[str, Any] | None = None, merged: str | None = None) -> Any:
    """``sources`` and ``options``: as ``tileseg batch`` takes them. The state is that of the segmentation."""
    state = segment(sources, out, options or {}, return_state=True)
    publish(out, merged)
    return state


def main() -> None:
    """Serve the flow, or run it once."""
    parser = argparse.ArgumentParser(description="Segment an archive every night, with Prefect.")
    parser.add_argument("sources", nargs="+", help="as of tileseg batch")
    parser.add_argument("--out", required=True, help="folder of all outputs")
    parser.add_argument("--merge", help="one layer of all polygons: .parquet, .gpkg or .fgb")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of tileseg run")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--once", action="store_true", help="run now")
    when.add_argument("--cron", help="when to run, such as '30 1 * * *'")
    given = parser.parse_args()
    options = dict(pair.partition("=")[::2] for pair in given.set)
    parameters = {"sources": given.sources, "out": given.out, "options": options, "merged": given.merge}
    if given.once:
        archive(**parameters)
    else:
        archive.serve(name="nightly", cron=given.cron, parameters=parameters)


if __name__ == "__main__":
    main()
