"""Draw ``docs/how.png``: what a tile with its halo, logits, a mosaic, labels and polygons are, by the sample raster.

``python sample_rasters/draw_how.py`` writes it into ``docs/``; it takes some seconds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image, ImageDraw, ImageFont
from rasterio.warp import transform as to_crs

from tileseg import RunSpec, run
from tileseg.mosaic import Mosaic
from tileseg.nn.folder import load_card, resolve_model
from tileseg.window import Window

HERE = Path(__file__).resolve().parent
SCENE = HERE / "settlement.tif"

AREA = Window(200, 420, 768, 1024)
"""Part of the scene that is shown."""
CORE = 256
"""Side of a core: four by three of them fill the area."""
AT = (1, 1)
"""Row and column of the core that is looked at."""
SHRINK = 2
TEXT_HEIGHT, MARGIN = 46, 10
COLUMNS = 3
SEAM, CORE_LINE, POLYGON = (255, 255, 255), (255, 214, 0), (255, 60, 60)

Picture = npt.NDArray[np.uint8]
"""(y, x, 3)."""


def main() -> None:
    """Segment the sample raster and draw what becomes of it."""
    halo = load_card(resolve_model("embedded")).halo
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "settlement.tileseg"
        run(RunSpec(scene=SCENE, out=out, precision="float32", workers=0))
        with rasterio.open(SCENE) as scene:
            part = ((AREA.row_off, AREA.row_off + AREA.height), (AREA.col_off, AREA.col_off + AREA.width))
            image = np.moveaxis(scene.read([1, 2, 3], window=part), 0, -1)
            rings = polygon_rings(out / "polygons.geojson", scene)
        with rasterio.open(out / "labels.tif") as file:
            labels = file.read(1, window=part)
        logits = building_logits(Mosaic(out / "mosaic.zarr"))
    panels = [
        ("scene, cut into cores", lines(picture(image), cores=True)),
        (f"a tile: one core (yellow) and its halo of {halo} px", tile(image, halo)),
        ("logits of that core: what the network says", one_core(logits)),
        ("mosaic: the logits of all cores, without seams", lines(picture(logits), cores=False)),
        ("labels: the class with the largest logit", picture(coloured(labels))),
        ("polygons: borders of the labels, whole", outlined(picture(image), rings)),
    ]
    sheet(panels).save(HERE.parent / "docs" / "how.png", optimize=True)


def building_logits(mosaic: Mosaic) -> Picture:
    """How much larger the logit of buildings is than that of the rest, as grey: half is the border of the labels."""
    logits = mosaic.read_logits(AREA).astype(np.float32)
    margin = logits[1] - logits[0]
    grey = np.clip(127.5 + margin * 127.5 / np.percentile(np.abs(margin), 98), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def polygon_rings(file: Path, scene: rasterio.DatasetReader) -> list[list[tuple[float, float]]]:
    """Rings of all polygons in pixels (x, y) of the area that is shown."""
    found = []
    for feature in json.loads(file.read_text(encoding="utf-8"))["features"]:
        geometry = feature["geometry"]
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for ring in (ring for part in parts for ring in part):
            x, y = to_crs("EPSG:4326", scene.crs, *zip(*ring, strict=True))
            pixels = [~scene.transform * point for point in zip(x, y, strict=True)]
            found.append([((column - AREA.col_off) / SHRINK, (row - AREA.row_off) / SHRINK) for column, row in pixels])
    return found


def picture(values: Picture) -> Image.Image:
    """An array as a picture of the size of a panel."""
    return Image.fromarray(values).resize((AREA.width // SHRINK, AREA.height // SHRINK), Image.Resampling.BOX)


def coloured(labels: npt.NDArray[np.uint8]) -> Picture:
    """Labels (y, x) in the model's colours."""
    classes = load_card(resolve_model("embedded")).classes
    colours = [tuple(bytes.fromhex(info.color.removeprefix("#"))) for info in classes]
    table = np.array(colours + [(0, 0, 0)] * (256 - len(colours)), np.uint8)
    return table[labels]


def box(row: float, column: float, side: float, grow: float = 0) -> tuple[float, float, float, float]:
    """A square of the area in pixels of a panel: left, top, right, bottom."""
    corners = (column - grow, row - grow, column + side + grow, row + side + grow)
    left, top, right, bottom = (corner / SHRINK for corner in corners)
    return left, top, right - 1, bottom - 1


def lines(shown: Image.Image, *, cores: bool) -> Image.Image:
    """With the borders of cores, if they are wanted."""
    draw = ImageDraw.Draw(shown)
    for row in range(0, AREA.height if cores else 0, CORE):
        for column in range(0, AREA.width, CORE):
            draw.rectangle(box(row, column, CORE), outline=SEAM)
    if cores:
        draw.rectangle(box(AT[0] * CORE, AT[1] * CORE, CORE), outline=CORE_LINE, width=3)
    return shown


def tile(image: Picture, halo: int) -> Image.Image:
    """One tile; what is around it is dark, its halo half so."""
    bright = np.full(image.shape[:2], 0.15, np.float32)
    row, column = AT[0] * CORE, AT[1] * CORE
    bright[max(row - halo, 0) : row + CORE + halo, max(column - halo, 0) : column + CORE + halo] = 0.6
    bright[row : row + CORE, column : column + CORE] = 1
    shown = picture((image * bright[..., None]).astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    draw.rectangle(box(row, column, CORE, halo), outline=SEAM)
    draw.rectangle(box(row, column, CORE), outline=CORE_LINE, width=3)
    return shown


def one_core(logits: Picture) -> Image.Image:
    """Logits of the one core."""
    kept = np.zeros_like(logits)
    row, column = AT[0] * CORE, AT[1] * CORE
    kept[row : row + CORE, column : column + CORE] = logits[row : row + CORE, column : column + CORE]
    shown = picture(kept)
    ImageDraw.Draw(shown).rectangle(box(row, column, CORE), outline=CORE_LINE, width=3)
    return shown


def outlined(shown: Image.Image, rings: list[list[tuple[float, float]]]) -> Image.Image:
    """With polygons."""
    draw = ImageDraw.Draw(shown)
    for ring in rings:
        draw.line(ring, fill=POLYGON, width=2)
    return shown


def sheet(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """All panels, row by row, each with its number and what it shows."""
    width, height = panels[0][1].width + MARGIN, panels[0][1].height + TEXT_HEIGHT
    rows = -(-len(panels) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), (255, 255, 255))
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=19)
    for number, (text, shown) in enumerate(panels):
        left, top = MARGIN + number % COLUMNS * width, MARGIN + number // COLUMNS * height
        draw.text((left, top), f"{number + 1}  {text}", fill=(0, 0, 0), font=font)
        whole.paste(shown, (left, top + TEXT_HEIGHT - MARGIN))
    return whole.quantize(48, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
