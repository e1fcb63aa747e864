"""The project of QGIS in a run's folder: the scene, its labels and polygons, all in place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tileseg.formats import FORMATS, vector_paths
from tileseg.run.names import LABELS, PROJECT
from tileseg.storage.local import is_file

if TYPE_CHECKING:
    from tileseg.publish.project import MapLayer
    from tileseg.run.prepare import PreparedRun


def write_run_project(prepared: PreparedRun, workspace: Path, measures: Mapping[str, int | None]) -> None:
    """Write ``scene.qgz`` into a workspace.

    ``measures``: files of what is kept of pixels beside their labels -> the class whose probability it is; None: the
    disagreement of views.

    From the top: polygons, then what can be switched on (probabilities, labels), then the scene itself, if it is a file
    of this machine. All lie as seen from the run's folder, so that both may be moved together.
    """
    from tileseg.labels import BYTE_STEPS, SPREAD_STEP
    from tileseg.publish.project import MapLayer, crs_of, write_project
    from tileseg.publish.qgis import looks_of, palette, ramp

    grid, classes = prepared.scene.grid, prepared.card.classes
    crs = crs_of(grid)
    layers = [
        *_polygons(prepared),
        *(
            MapLayer(
                "disagreement of views" if i is None else f"probability of {classes[i].name}",
                f"./{name}",
                crs,
                [ramp(BYTE_STEPS * SPREAD_STEP if i is None else 1)],
                is_raster=True,
                visible=False,
            )
            for name, i in measures.items()
        ),
        MapLayer("labels", f"./{LABELS}", crs, [palette(looks_of(classes))], is_raster=True, visible=False),
        *_scene(prepared, crs),
    ]
    write_project(workspace / PROJECT, Path(str(prepared.spec.scene)).name, grid, layers)


def _polygons(prepared: PreparedRun) -> list[MapLayer]:
    """The polygons in the format that QGIS opens best, if it opens any."""
    from pyproj.enums import WktVersion

    from tileseg.globe import Globe
    from tileseg.publish.project import MapLayer, crs_of
    from tileseg.publish.qgis import by_class, looks_of

    known = [form for name in prepared.spec.formats if (form := FORMATS[name]).qgis is not None]
    if not known:
        return []
    best = min(known, key=lambda form: form.qgis or 0)
    grid = prepared.scene.grid
    crs = crs_of(grid, polygons=True)
    if best.in_degrees and grid.crs is not None and grid.geod is not None:
        crs = Globe(grid.crs).degrees.to_wkt(WktVersion.WKT2_2019)
    source = f"./{vector_paths(Path(), [best.name])[best.name].name}"
    if best.layer is not None:
        source += f"|layername={best.layer}"
    looks = [look for look in looks_of(prepared.card.classes) if look.value not in prepared.ignore]
    return [MapLayer("polygons", source, crs, [by_class(looks)])]


def _scene(prepared: PreparedRun, crs: str) -> list[MapLayer]:
    """The scene itself, where both it and the run's folder lie on this machine."""
    from tileseg.publish.project import MapLayer, stretched

    scene, folder = prepared.spec.scene, prepared.folder
    if not (isinstance(scene, Path) and isinstance(folder, Path) and is_file(scene)):
        return []
    source = os.path.relpath(scene.resolve(), folder.resolve())
    style = [] if prepared.scene.dtype == "uint8" else [stretched(prepared.scene.bands)]
    return [MapLayer("scene", source if source.startswith(".") else f"./{source}", crs, style, is_raster=True)]
