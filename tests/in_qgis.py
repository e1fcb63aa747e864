"""Run by the Python that has QGIS: opens files, and says how QGIS shows them. Prints JSON; writes a picture of each.

    python3 in_qgis.py PICTURES FILE...

A project (.qgz) is shown with all of its layers, another file alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

RASTERS = (".tif", ".png", ".jpg")


def facts_of(layer) -> dict:
    """Name, place, and what its renderer has for each class."""
    found = {
        "name": layer.name(),
        "valid": layer.isValid(),
        "crs": layer.crs().authid() or layer.crs().description(),
        "style": Path(layer.styleURI()).name,
    }
    renderer = layer.renderer()
    found["renderer"] = renderer.type()
    if renderer.type() == "categorizedSymbol":
        found["classes"] = {
            str(c.value()): [c.label(), c.symbol().symbolLayer(0).strokeColor().name()] for c in renderer.categories()
        }
    if renderer.type() == "paletted":
        found["classes"] = {str(c.value): [c.label, c.color.name()] for c in renderer.classes()}
    if isinstance(layer, QgsVectorLayer):
        found["features"] = layer.featureCount()
        _, ids, names, _, _ = layer.listStylesInDatabase()
        found["styles"] = names[: len(ids)]
    return found


def draw(layers, crs, extent, path: str) -> None:
    """A picture, 800 pixels wide, on white."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(800, max(1, round(800 * extent.height() / extent.width()))))
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(path)


def shown(file: str, pictures: Path) -> dict:
    """A file as QGIS opens it."""
    path = Path(file)
    picture = str(pictures / f"{path.name}.png")
    if path.suffix == ".qgz":
        project = QgsProject.instance()
        project.read(file)
        tree = [node.layer() for node in project.layerTreeRoot().findLayers()]
        visible = [node.layer() for node in project.layerTreeRoot().findLayers() if node.isVisible()]
        draw(visible, project.crs(), visible[-1].extent(), picture)
        found = {"layers": [facts_of(layer) for layer in tree], "crs": project.crs().authid(), "error": project.error()}
        project.clear()
        return found
    layer = QgsRasterLayer(file, path.stem) if path.suffix in RASTERS else QgsVectorLayer(file, path.stem, "ogr")
    if not layer.isValid():
        return {"valid": False}
    draw([layer], layer.crs(), layer.extent(), picture)
    return facts_of(layer)


def main() -> None:
    """Open all, and say what was found."""
    pictures = Path(sys.argv[1])
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    sys.stdout.write(json.dumps({Path(file).name: shown(file, pictures) for file in sys.argv[2:]}) + "\n")
    application.exitQgis()


main()
