"""What an archive's outputs are: a static STAC collection with one item per scene, and an index of footprints.

``collection.json`` and ``index.gpkg`` lie in the batch's folder, ``item.json`` in each scene's; all links are
relative, so the folder may be moved. Extensions: processing 1.2, classification 2.0, projection 2.0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileseg.batch.outputs import FinishedRun, finished_in, write_frame
from tileseg.batch.table import moment
from tileseg.errors import InputError, UsageError
from tileseg.formats import FORMATS, STYLE
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic

if TYPE_CHECKING:
    import pystac
    import shapely

COLLECTION, ITEM, INDEX = "collection.json", "item.json", "index.gpkg"

_PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
_CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
_KINDS = {
    "mosaic": ("application/vnd.zarr; version=3", "Logits and labels", ["data"]),
    "labels": (_GEOTIFF, "Labels", ["data", "classification"]),
    "quicklook": ("image/png", "Quicklook", ["thumbnail"]),
    "project": ("application/zip", "Project of QGIS", ["metadata"]),
    "summary": ("application/json", "Summary of the run", ["metadata"]),
    **{form.name: (form.media_type, "Polygons", ["data"]) for form in FORMATS.values()},
}
"""Output -> media type, title, roles."""
_ROUNDS = 3
"""Runs may be finished all the time, by batches that will write the catalogue themselves."""


def write_catalogue(folder: Path | Url, tell: Callable[[str], None] | None = None) -> int:
    """Describe all finished runs below a folder; how many they are. Raises UsageError where pystac is missing.

    ``tell`` gets a line for each that is left out because it is damaged, or has no place on Earth. Several batches may
    do so at once: who wrote without knowing of a run that was finished meanwhile writes again.
    """
    problems: dict[str, None] = {}

    def look() -> list[FinishedRun]:
        return list(finished_in(folder, lambda line: problems.setdefault(f"not in the catalogue: {line}")))

    runs = look()
    for _ in range(_ROUNDS):
        _write(folder, runs, problems.setdefault)
        known, runs = runs, look()
        if runs == known:
            break
    if tell is not None:
        for problem in problems:
            tell(problem)
    return len(runs)


def _write(folder: Path | Url, runs: Sequence[FinishedRun], tell: Callable[[str], object]) -> None:
    footprints = [_footprint(run, tell) for run in runs]
    _write_index(folder / INDEX, runs, footprints)
    try:
        import pystac  # noqa: F401 - asked before anything is written
    except ImportError:
        raise UsageError('no STAC catalogue: it needs pystac: pip install "tileseg[stac]"') from None
    items = [make_item(run, footprint) for run, footprint in zip(runs, footprints, strict=True)]
    if items:
        _write_collection(folder, runs, items)


def _footprint(run: FinishedRun, tell: Callable[[str], object]) -> shapely.Polygon | None:
    """Where a scene lies on Earth (WGS 84); None where that is not known."""
    try:
        return run.outline("EPSG:4326")
    except InputError as error:
        tell(f"no footprint: {error}")
        return None


def make_item(run: FinishedRun, outline: shapely.Polygon | None) -> pystac.Item:
    """One scene's outputs; its links and assets are relative to its folder. ``outline``: in WGS 84."""
    import pystac

    made = run.summary["written"].replace("+00:00", "Z")
    # What an earlier version noted was not checked.
    taken = None if run.source is None or run.source.taken is None else moment(run.source.taken)
    grid = run.grid
    properties: dict[str, Any] = {
        "title": run.name,
        "created": made,
        "processing:level": "L3",
        "processing:software": {name: run.summary["versions"][name] for name in ("tileseg", "keras", "tensorflow")},
        "processing:lineage": f"{Path(str(run.summary['scene']['path'])).name}, segmented by {_model(run)}",
        "proj:shape": [grid.height, grid.width],
        "proj:transform": list(grid.transform)[:6],
        "tileseg:scene": str(run.summary["scene"]["path"] if run.source is None else run.source.scene),
        "tileseg:model": run.summary["model"],
        "tileseg:polygons": run.summary["report"]["polygons"],
        "tileseg:pixels": run.summary["report"]["pixels"],
    }
    if grid.crs is not None:
        code = grid.crs.to_authority(min_confidence=100)
        properties |= {"proj:code": ":".join(code)} if code else {"proj:code": None, "proj:wkt2": grid.crs.to_wkt()}
    item = pystac.Item(
        id=run.name,
        geometry=None if outline is None else dict(outline.__geo_interface__),
        bbox=None if outline is None else [round(value, 7) for value in outline.bounds],
        datetime=taken or moment(made),
        properties=properties,
        stac_extensions=[_PROCESSING, _CLASSIFICATION, _PROJECTION],
    )
    classes = [
        {"value": i, "name": _slug(info.name), "title": info.name, "color_hint": info.color.removeprefix("#").upper()}
        for i, info in enumerate(run.mosaic.classes)
    ]
    for key, path in run.outputs.items():
        media, title, roles = _KINDS.get(key) or _kind_of(key, path.suffix)
        more = {"classification:classes": classes} if key == "labels" else {}
        item.add_asset(key, pystac.Asset(f"./{path.name}", title, media_type=media, roles=roles, extra_fields=more))
    return item


def _kind_of(key: str, ending: str) -> tuple[str, str, list[str]]:
    """Media type, title and roles of what is there for each class, or beside other files: these carry names."""
    title = key.replace("_", " ").capitalize()
    if ending == STYLE:
        return "application/xml", f"{title} for QGIS", ["metadata"]
    return _GEOTIFF, title, ["data"]


def _write_collection(folder: Path | Url, runs: Sequence[FinishedRun], items: Sequence[pystac.Item]) -> None:
    import pystac

    boxes = [item.bbox for item in items if item.bbox is not None] or [[-180.0, -90.0, 180.0, 90.0]]
    times = [item.datetime for item in items if item.datetime is not None]
    whole = [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]
    collection = pystac.Collection(
        id=_slug(folder.absolute().name) or "archive",
        title=folder.absolute().name,
        description=f"Segmentations of {len(items)} scenes by tileseg.",
        extent=pystac.Extent(pystac.SpatialExtent([whole]), pystac.TemporalExtent([[min(times), max(times)]])),
        license="other",
    )
    links = collection.to_dict(include_self_link=False)
    here = {"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"}
    links["links"] = [here]
    for item, run in zip(items, runs, strict=True):
        href = f"./{run.folder.name}/{ITEM}"
        links["links"].append({"rel": "item", "href": href, "type": "application/geo+json", "title": item.id})
        values = item.to_dict(include_self_link=False)
        values["collection"] = collection.id
        up = {"href": f"../{COLLECTION}", "type": "application/json"}
        values["links"] = [{"rel": rel, **up} for rel in ("root", "parent", "collection")]
        write_atomic(run.folder / ITEM, json.dumps(values, indent=1) + "\n")
    write_atomic(folder / COLLECTION, json.dumps(links, indent=1) + "\n")


def _write_index(path: Path | Url, runs: Sequence[FinishedRun], footprints: Sequence[shapely.Polygon | None]) -> None:
    """Footprints (WGS 84) with counts, one row per scene."""
    import geopandas

    rows = []
    for run, footprint in zip(runs, footprints, strict=True):
        report = run.summary["report"]
        rows.append(
            {
                "scene": str(run.summary["scene"]["path"]),
                "folder": run.folder.name,
                "model": run.summary["model"]["name"],
                "height": run.grid.height,
                "width": run.grid.width,
                "blocks": report["blocks"],
                "polygons": sum(report["polygons"].values()),
                "written": run.summary["written"],
                **{f"polygons_{_slug(name)}": count for name, count in report["polygons"].items()},
                "geometry": footprint,
            }
        )
    if rows:
        frame = geopandas.GeoDataFrame(rows, crs="EPSG:4326")
        at(path).deliver(lambda place: write_frame(frame, place, "scenes"))


def _model(run: FinishedRun) -> str:
    model = run.summary["model"]
    return f"{model['name']} ({model['sha256'][:12]})"


def _slug(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)
