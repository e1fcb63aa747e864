"""``tileseg``: the commands, and what a failure prints and exits with."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from tileseg.cli import (
    batch,
    dataset,
    doctor,
    evaluate,
    merge,
    model,
    run,
    scan,
    suggest,
    train,
    vectorize,
    view,
    worker,
)
from tileseg.errors import Interrupted, TilesegError, disk_full, root_of
from tileseg.imports import own_process

app = typer.Typer(
    name="tileseg",
    help="Segment rasters of any size: exact tiles, polygons without seams, bounded memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Several files are one scene.
app.command("run", context_settings={"allow_extra_args": True})(run.command)
app.command("worker")(worker.command)
app.command("batch")(batch.command)
app.command("scan")(scan.command)
app.command("merge")(merge.command)
app.command("train")(train.command)
app.command("evaluate")(evaluate.command)
app.command("suggest")(suggest.command)
app.command("vectorize")(vectorize.command)
app.command("view")(view.command)
app.add_typer(dataset.app, name="dataset", help="Look at labelled scenes before training on them.")
app.add_typer(model.app, name="model", help="Look at models, prove them, bring your own.")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tileseg {version('tileseg')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run a command; turn errors into one line and an exit code. A traceback is for bugs, and for -v."""
    own_process()
    # The interpreter looks for cycles among all objects when it ends, for half a second: nobody gets what that frees.
    atexit.register(gc.freeze)
    try:
        app()
    except TilesegError as error:
        sys.exit(_report(error, f"{error}{_meant(error)}", error.exit_code))
    except KeyboardInterrupt as error:
        sys.exit(_report(error, "stopped", Interrupted.exit_code))
    except BrokenPipeError:
        # The reader of our output has gone (`tileseg ... | head`): nothing to tell, nobody to tell it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if not disk_full(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_report(error, f"{where}the disk is full; make space and run the same command again to go on", 1))


def _meant(error: TilesegError) -> str:
    """The file that the user may have meant, where one is not there."""
    missing = root_of(error)
    if not isinstance(missing, FileNotFoundError) or not missing.filename or "did you mean" in str(error):
        return ""
    from tileseg.storage.place import similar_name

    return similar_name(Path(os.fsdecode(missing.filename)))


def _report(error: BaseException, message: str, code: int) -> int:
    if code != Interrupted.exit_code and any(arg in ("-v", "--verbose") for arg in sys.argv[1:]):  # it was meant
        traceback.print_exception(error)
    typer.echo(f"tileseg: {message}", err=True)
    return code
