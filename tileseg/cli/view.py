"""``tileseg view``: parse, call, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[str, typer.Argument(help="Folder of a run, finished or not, or a folder with those of several.")],
    *,
    scene: Annotated[
        Path | None, typer.Option(help="Where the scene lies now, if it was moved since.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="On 127.0.0.1; default 8777 or the next that is free.", show_default=False)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write it as a folder of files for any web server, instead of serving it.", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write one page about the run, or one about all, instead of serving them.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export or report.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
) -> None:
    """Look at a run in the browser: scene, labels and polygons, other thresholds, what is uncertain."""
    from tileseg.errors import UsageError
    from tileseg.storage.place import is_address

    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f'view needs {error.name}: pip install "tileseg[view]"') from error
    from tileseg.view.viewed import runs_in

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    if is_address(folder):
        raise UsageError(f"{folder}: view reads folders of this machine only; copy the results here first")
    if port is not None and not 0 <= port < 65536:
        raise UsageError(f"--port {port}: expected 1 to 65535")
    if report is not None and (export is not None or (report.exists() and not overwrite)):
        told = "give only one of it and --export" if export is not None else "exists; --overwrite replaces it"
        raise UsageError(f"--report {report}: {told}")
    runs = runs_in(Path(folder), scene, tell)
    if report is not None:
        from tileseg.view.overview import write_overview
        from tileseg.view.report import write_report

        if runs[0].folder == Path(folder):
            write_report(runs[0], report)
        else:
            write_overview(runs, Path(folder), report)
        tell(str(report))
        return
    if export is None:
        from tileseg.view.serve import serve

        serve(runs, port, browse=not no_browser, tell=tell)
        return
    from tileseg.view.export import export as write

    write(runs, export, overwrite=overwrite, tell=tell)
    tell(f"{export}: to be served by a web server that answers ranges, such as: npx serve {export}")
