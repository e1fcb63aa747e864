"""``tileseg worker``: parse, call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def _option(text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, show_default=False)


def command(
    scheduler: Annotated[
        str | None, typer.Argument(help="The scheduler, such as tcp://head:8786.", metavar="[ADDRESS]")
    ] = None,
    scheduler_file: Annotated[Path | None, _option("File in which the scheduler wrote its address.", "FILE")] = None,
    device: Annotated[
        str, _option("A GPU's number, cpu, or auto (default): one process for each visible GPU.", "auto|cpu|N")
    ] = "auto",
    threads: Annotated[
        int | None, _option("Processor threads of each process; default: its share of the cores.")
    ] = None,
    memory: Annotated[str | None, _option("Restart a process that takes more, such as 16GiB.", "SIZE")] = None,
    name: Annotated[str | None, _option("Name on the dashboard.")] = None,
    tls: Annotated[
        tuple[Path, Path, Path] | None, _option("For tls://: files of the CA, certificate and key.", "CA CERT KEY")
    ] = None,
) -> None:
    """Start Dask workers for tileseg, one process per device, that runs reach by --scheduler or --scheduler-file."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from tileseg.errors import UsageError

    address = scheduler or (None if scheduler_file else os.environ.get("DASK_SCHEDULER_ADDRESS"))
    if (address is None) == (scheduler_file is None):
        raise UsageError("which scheduler? Either tileseg worker ADDRESS or tileseg worker --scheduler-file FILE")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: expected at least 1")
    try:
        limit = None if memory is None else int(TypeAdapter(ByteSize).validate_python(memory))
    except ValidationError:
        raise UsageError(f"--memory {memory}: expected a size such as 16GiB") from None
    from tileseg.cluster.serve import WorkerOptions, serve

    typer.echo(serve(WorkerOptions(address, scheduler_file, device, threads, limit, name, tls)), err=True)
