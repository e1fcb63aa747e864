"""Draw an invented settlement from above, with its true labels: sample rasters, and scenes to train on.

``render`` draws one; run as a script, this file writes the sample rasters beside itself. The same seed gives the
same scene. Everything is drawn in metres on a street plan: (u, v) along and across the streets, bent and turned
into (x, y) on the ground, so that buildings stand along their street.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

GROUND, BUILDING, ROAD, VEGETATION, WATER = range(5)
CLASS_NAMES = ("ground", "building", "road", "vegetation", "water")
CLASS_COLORS = ("#c8b99a", "#d9544d", "#6b6b76", "#4f9a4d", "#3f7fbf")

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
"""(n, 2) as (x, y)."""

GROUNDS = (  # a light and a dark tone of bare ground
    ((196, 172, 132), (150, 124, 90)),  # sand
    ((176, 122, 88), (132, 84, 58)),  # laterite
    ((168, 160, 146), (122, 114, 102)),  # grey earth
    ((164, 158, 112), (116, 116, 78)),  # dry grass
    ((206, 196, 176), (166, 150, 124)),  # pale coral rag
)
ROOFS = (  # colour, how much it varies, whether it is pitched
    ((186, 190, 196), 18, True),  # sheet metal
    ((158, 108, 84), 16, True),  # rusted sheet metal
    ((172, 92, 66), 14, True),  # clay tiles
    ((148, 142, 136), 18, False),  # concrete
    ((216, 212, 204), 12, False),  # whitewashed
    ((98, 112, 134), 14, True),  # painted blue
    ((112, 72, 60), 12, True),  # dark tiles
    ((96, 96, 98), 12, False),  # bitumen
)
GREENS = (((64, 96, 48), (104, 128, 66)), ((46, 78, 44), (84, 108, 58)), ((84, 98, 52), (128, 132, 78)))
WATERS = ((54, 82, 92), (66, 84, 66), (40, 62, 88), (96, 98, 78))


@dataclass(frozen=True, slots=True)
class _Plan:
    """The street plan: how (u, v) along the streets lies on the ground, in pixels."""

    centre: tuple[float, float]
    angle: float
    bend: tuple[float, float]
    wave: tuple[float, float]
    phase: tuple[float, float]

    def to_pixels(self, uv: Points) -> Points:
        """(n, 2) as (u, v) -> (n, 2) as (column, row)."""
        u = uv[:, 0] + self.bend[0] * np.sin(uv[:, 1] / self.wave[0] + self.phase[0])
        v = uv[:, 1] + self.bend[1] * np.sin(uv[:, 0] / self.wave[1] + self.phase[1])
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.stack([self.centre[0] + cos * u - sin * v, self.centre[1] + sin * u + cos * v], axis=1)


class _Canvas:
    """The layers that are drawn into, all of the scene's size."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        size = (width, height)
        self.labels = Image.new("L", size, GROUND)
        self.paint = Image.new("RGBA", size, (0, 0, 0, 0))
        self.shade = Image.new("L", size, 0)
        self.grain = Image.new("L", size, 0)
        self.draw_label = ImageDraw.Draw(self.labels)
        self.draw_paint = ImageDraw.Draw(self.paint)
        self.draw_shade = ImageDraw.Draw(self.shade)
        self.draw_grain = ImageDraw.Draw(self.grain)

    def polygon(self, corners: Points, color: tuple[int, int, int], label: int | None, grain: int = 0) -> None:
        """Paint a polygon and, if it has one, its label; ``grain`` is the strength of its fine texture."""
        flat = corners.ravel().tolist()
        self.draw_paint.polygon(flat, fill=(*color, 255))
        if label is not None:
            self.draw_label.polygon(flat, fill=label)
            self.draw_grain.polygon(flat, fill=grain)

    def is_free(self, corners: Points, margin: float, onto: tuple[int, ...] = (GROUND,)) -> bool:
        """Whether a quadrilateral, grown by ``margin`` pixels, lies on nothing but ``onto``."""
        middle = corners.mean(axis=0)
        spokes = corners - middle
        grown = middle + spokes * (1 + margin / np.maximum(np.hypot(*spokes.T), 1e-9))[:, None]
        steps = np.linspace(0, 1, 6)
        near = grown[0] + steps[:, None] * (grown[1] - grown[0])
        far = grown[3] + steps[:, None] * (grown[2] - grown[3])
        spots = (near[:, None] + steps[None, :, None] * (far - near)[:, None]).reshape(-1, 2).astype(int).tolist()
        inside = [(x, y) for x, y in spots if 0 <= x < self.width and 0 <= y < self.height]
        pixels = self.labels.load()
        assert pixels is not None
        return bool(inside) and all(pixels[x, y] in onto for x, y in inside)


@dataclass(frozen=True, slots=True)
class _Site:
    """What everything that is drawn has in common."""

    rng: np.random.Generator
    canvas: _Canvas
    plan: _Plan
    metre: float
    """Pixels in a metre."""
    sun: tuple[float, float]
    """Shadow of a thing one metre high, in pixels (right, down)."""
    green: tuple[tuple[int, int, int], tuple[int, int, int]]
    """A dark and a light tone of leaves."""


def render(height: int, width: int, seed: int, gsd: float = 0.3) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw a scene of ``gsd`` metres per pixel.

    Returns the image (height, width, 3) as red, green, blue, and the labels (height, width): 0 ground, 1 building,
    2 road, 3 vegetation, 4 water. Palette, light, street plan and density follow from the seed.
    """
    rng = np.random.default_rng(seed)
    canvas = _Canvas(height, width)
    metre = 1 / gsd
    sun = _sun(rng, metre)
    base = _ground(rng, height, width, metre)
    water = _water(rng, height, width, metre)
    canvas.labels.paste(WATER, mask=Image.fromarray(water.astype(np.uint8) * 255))
    plan = _Plan(
        centre=(width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7)),
        angle=rng.uniform(0, math.pi),
        bend=(rng.uniform(0, 14) * metre, rng.uniform(0, 14) * metre),
        wave=(rng.uniform(50, 120) * metre, rng.uniform(50, 120) * metre),
        phase=(rng.uniform(0, 6), rng.uniform(0, 6)),
    )
    site = _Site(rng, canvas, plan, metre, sun, GREENS[rng.integers(len(GREENS))])
    streets, rows = _streets(rng, height, width, metre)
    lots = _draw_blocks(site, streets, rows)
    _draw_roads(site, streets, rows)
    _draw_buildings(site, lots)
    _draw_trees(site)
    return _expose(rng, canvas, base, metre), np.asarray(canvas.labels).copy()


def _sun(rng: np.random.Generator, metre: float) -> tuple[float, float]:
    """Shadow of a thing one metre high, in pixels (right, down)."""
    azimuth, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 1.1) * metre
    return math.cos(azimuth) * length, math.sin(azimuth) * length


def _noise(rng: np.random.Generator, height: int, width: int, grain: float) -> Floats:
    """Smooth noise whose bumps are about ``grain`` pixels wide; standard deviation 1 before smoothing."""
    rows, cols = max(2, math.ceil(height / grain) + 1), max(2, math.ceil(width / grain) + 1)
    coarse = rng.standard_normal((rows, cols)).astype(np.float32)
    return _enlarge(coarse, height, width)


def _cloudy(rng: np.random.Generator, height: int, width: int, grain: float, octaves: int) -> Floats:
    """Sum of smooth noises, each half as wide and half as strong as the one before: enlarged as it is summed."""
    total = np.zeros((2, 2), np.float32)
    for octave in range(octaves):
        size = max(1.0, grain / 2**octave)
        shape = (max(2, math.ceil(height / size) + 1), max(2, math.ceil(width / size) + 1))
        bumps = rng.standard_normal(shape).astype(np.float32) * np.float32(0.5**octave)
        total = _enlarge(total, *shape) + bumps
    return _enlarge(total, height, width)


def _enlarge(field: Floats, height: int, width: int) -> Floats:
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))


def _ground(rng: np.random.Generator, height: int, width: int, metre: float) -> Floats:
    """Bare ground, worn pale in places and with thin grass in others: (height, width, 3)."""
    light, dark = (np.array(tone, np.float32) for tone in GROUNDS[rng.integers(len(GROUNDS))])
    grass = np.array(GREENS[rng.integers(len(GREENS))][1], np.float32)
    mix = np.clip(0.5 + 0.3 * _cloudy(rng, height, width, 30 * metre, 6), 0, 1)[..., None]
    tuft = np.clip(0.6 * _cloudy(rng, height, width, 14 * metre, 5) - rng.uniform(0.1, 0.7), 0, 0.6)[..., None]
    bare = dark + mix * (light - dark)
    return np.asarray(bare + tuft * (grass - bare), np.float32)


def _water(rng: np.random.Generator, height: int, width: int, metre: float) -> npt.NDArray[np.bool_]:
    """A river, a pond or two, or none at all."""
    kind = rng.random()
    rows = np.arange(height, dtype=np.float32)[:, None]
    cols = np.arange(width, dtype=np.float32)[None, :]
    wobble = _cloudy(rng, height, width, 40 * metre, 3) * np.float32(6 * metre)
    angle, offset = rng.uniform(0, math.pi), rng.uniform(0.15, 0.85)
    across = (cols - offset * width) * np.float32(math.sin(angle)) - (rows - offset * height) * np.float32(
        math.cos(angle)
    )
    size = rng.uniform(6, 16) * metre
    if kind < 0.45:
        return np.asarray(np.abs(across + wobble) < size)
    if kind < 0.8:
        spot = rng.uniform(0.1, 0.9, 2) * (width, height)
        away = np.hypot((cols - spot[0]) * rng.uniform(0.6, 1.2), rows - spot[1])
        return np.asarray(away + wobble < size * 2)
    return np.zeros((height, width), bool)


def _streets(rng: np.random.Generator, height: int, width: int, metre: float) -> tuple[Points, Points]:
    """Where the streets lie along u, and along v, in pixels; two per column: position and half width."""
    reach = math.hypot(height, width) + 40 * metre
    lines = []
    for spacing in (rng.uniform(55, 95) * metre, rng.uniform(34, 52) * metre):
        gaps = spacing * rng.uniform(0.75, 1.3, 2 + int(2.8 * reach / spacing))
        places = np.cumsum(gaps) - gaps.sum() / 2
        widths = np.where(rng.random(len(places)) < 0.2, rng.uniform(4, 5.5), rng.uniform(2, 3.2, len(places)))
        lines.append(np.stack([places, widths * metre], axis=1))
    return lines[0], lines[1]


@dataclass(frozen=True, slots=True)
class _Lot:
    """A block between streets, to be built on."""

    box: tuple[float, float, float, float]
    """u from, u to, v from, v to, inside the streets."""
    kind: str


def _draw_blocks(site: _Site, streets: Points, rows: Points) -> list[_Lot]:
    """Decide what every block is, and draw fields and lawns. Returns those to be built on."""
    rng, canvas, plan, metre = site.rng, site.canvas, site.plan, site.metre
    lots = []
    density = rng.uniform(0.35, 1.0)
    town = rng.uniform(-0.25, 0.25, 2) * (canvas.width, canvas.height)
    size = rng.uniform(0.35, 0.9) * math.hypot(canvas.height, canvas.width)
    for left, right in itertools.pairwise(streets):
        for top, bottom in itertools.pairwise(rows):
            box = (left[0] + left[1], right[0] - right[1], top[0] + top[1], bottom[0] - bottom[1])
            corners = plan.to_pixels(_outline(box, rng.uniform(0.5, 2) * metre))
            kind, chance = rng.random(), rng.random()
            if (
                corners[:, 0].max() < 0
                or corners[:, 1].max() < 0
                or corners[:, 0].min() > canvas.width
                or corners[:, 1].min() > canvas.height
            ):
                continue
            away = math.hypot((box[0] + box[1]) / 2 - town[0], (box[2] + box[3]) / 2 - town[1]) / size
            if chance > density * math.exp(-(away**2)) + 0.15:
                if kind < 0.65:
                    _draw_field(site, corners)
                continue
            lots.append(_Lot(box, "hall" if kind < 0.1 else "dense" if kind < 0.45 else "row"))
    return lots


def _outline(box: tuple[float, float, float, float], inset: float) -> Points:
    """The border of a box in (u, v), with enough points to follow the bends."""
    u0, u1, v0, v1 = box[0] + inset, box[1] - inset, box[2] + inset, box[3] - inset
    steps = np.linspace(0, 1, 8, endpoint=False)
    along, back = u0 + steps * (u1 - u0), u1 + steps * (u0 - u1)
    down, up = v0 + steps * (v1 - v0), v1 + steps * (v0 - v1)
    return np.concatenate(
        [
            np.stack([along, np.full(8, v0)], 1),
            np.stack([np.full(8, u1), down], 1),
            np.stack([back, np.full(8, v1)], 1),
            np.stack([np.full(8, u0), up], 1),
        ]
    )


def _draw_field(site: _Site, corners: Points) -> None:
    """A field with furrows: its crop is vegetation; water and what is drawn later stay above it."""
    rng, canvas, metre = site.rng, site.canvas, site.metre
    left, top = np.floor(corners.min(axis=0)).astype(int).clip(0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (canvas.width, canvas.height))
    if right <= left or bottom <= top:
        return
    mask = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(mask).polygon((corners - (left, top)).ravel().tolist(), fill=1)
    labels = np.asarray(canvas.labels.crop((left, top, right, bottom)))
    inside = (np.asarray(mask) == 1) & (labels == GROUND)
    turn = site.plan.angle + (math.pi / 2 if rng.random() < 0.5 else 0)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    across = x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn))
    furrow = np.sin(across * np.float32(2 * math.pi / (rng.uniform(1.4, 3.5) * metre)))
    patchy = _cloudy(rng, bottom - top, right - left, 10 * metre, 4)
    dark, light = (np.array(tone, np.float32) for tone in site.green)
    tone = dark + rng.uniform(0.1, 1.1) * (light - dark) + rng.normal(0, 6, 3).astype(np.float32)
    color = tone + (furrow * np.float32(rng.uniform(2, 12)) + patchy * 7)[..., None]
    area = Image.fromarray(np.clip(color, 0, 255).astype(np.uint8)).convert("RGBA")
    stencil = Image.fromarray(inside.astype(np.uint8) * 255)
    canvas.paint.paste(area, (int(left), int(top)), stencil)
    canvas.labels.paste(VEGETATION, (int(left), int(top)), stencil)
    canvas.grain.paste(90, (int(left), int(top)), stencil)


def _draw_roads(site: _Site, streets: Points, rows: Points) -> None:
    """Streets, some paved and some of earth; the wide ones are drawn last, with a centre line and cars."""
    rng, canvas, plan, metre = site.rng, site.canvas, site.plan, site.metre
    far = 1.5 * math.hypot(canvas.height, canvas.width)
    reach = np.arange(-far, far, 8 * metre)
    paved = rng.random() < 0.6
    jobs = []
    for lines, along_v in ((streets, True), (rows, False)):
        for place, half in lines:
            fixed = np.full(len(reach), place)
            jobs.append((half, np.stack([fixed, reach] if along_v else [reach, fixed], axis=1), place, along_v))
    jobs.sort(key=lambda job: float(job[0]))
    grey = rng.uniform(88, 132)
    earth = np.array(GROUNDS[rng.integers(len(GROUNDS))][0]) * rng.uniform(0.9, 1.05)
    for half, line, place, along_v in jobs:
        wide = half > 3.6 * metre
        spots = plan.to_pixels(line)
        near = np.all((spots > -20 * metre) & (spots < np.array([canvas.width, canvas.height]) + 20 * metre), axis=1)
        points = [tuple(p) for p in spots[near].tolist()]
        if len(points) < 2:
            continue
        asphalt = wide or (paved and rng.random() < 0.8)
        tone = grey + rng.normal(0, 6) + np.array([2, 0, -2]) if asphalt else earth + rng.normal(0, 5, 3)
        color = tuple(int(c) for c in np.clip(tone, 0, 255))
        thick = max(1, round(2 * half))
        for draw, fill in ((canvas.draw_label, ROAD), (canvas.draw_grain, 60), (canvas.draw_paint, (*color, 255))):
            draw.line(points, fill=fill, width=thick, joint="curve")
        if wide and asphalt:
            for start in range(0, len(points) - 1, 2):
                canvas.draw_paint.line(points[start : start + 2], fill=(206, 202, 188, 255), width=1)
        if asphalt:
            _draw_cars(site, (place, half, along_v), float(reach[-1]))


def _draw_cars(site: _Site, street: tuple[float, float, bool], reach: float) -> None:
    """Cars along a street: painted only, the label stays road."""
    rng, metre = site.rng, site.metre
    place, half, along_v = street
    for spot in rng.uniform(-reach, reach, rng.poisson(reach / (40 * metre))):
        side = place + (half * 0.5 if rng.random() < 0.5 else -half * 0.5)
        box = np.array([[-2.1, -0.9], [2.1, -0.9], [2.1, 0.9], [-2.1, 0.9]]) * metre
        uv = box[:, ::-1] + (side, spot) if along_v else box + np.array([spot, side])
        shade = int(rng.choice([40, 70, 150, 215, 235]))
        tint = rng.integers(-12, 13, 3)
        color = tuple(int(c) for c in np.clip(shade + tint, 0, 255))
        site.canvas.draw_paint.polygon(site.plan.to_pixels(uv).ravel().tolist(), fill=(*color, 255))


def _draw_buildings(site: _Site, lots: list[_Lot]) -> None:
    """Buildings along the streets of every block that has any."""
    rng, metre = site.rng, site.metre
    favourites = rng.choice(len(ROOFS), 4, p=rng.dirichlet(np.ones(len(ROOFS))) * 0.98 + 0.02 / len(ROOFS))
    for lot in lots:
        u0, u1, v0, v1 = lot.box
        if lot.kind == "hall":
            size = (min(u1 - u0, 40 * metre) * rng.uniform(0.5, 0.8), (v1 - v0) * rng.uniform(0.4, 0.7))
            _draw_building(site, ((u0 + u1) / 2, (v0 + v1) / 2), size, 0, favourites)
            continue
        dense = lot.kind == "dense"
        deep = (6.5 if dense else 9.0) * metre
        lines = max(2, int((v1 - v0) / (deep * 1.25))) if dense else 2
        for line in range(lines):
            v = v0 + (v1 - v0) * (line + 0.5) / lines if dense else (v0 + 7 * metre, v1 - 7 * metre)[line]
            u = u0 + rng.uniform(2, 5) * metre
            while u < u1 - 5 * metre:
                wide = rng.uniform(5, 9 if dense else 15) * metre
                if rng.random() < 0.9:
                    spot = (u + wide / 2, v + rng.normal(0, 0.9 if dense else 1.2) * metre)
                    size = (wide, deep * rng.uniform(0.65, 1.2))
                    turn = rng.normal(0, 0.16 if dense else 0.03)
                    _draw_building(site, spot, size, turn, favourites)
                u += wide + rng.uniform(0.8, 3 if dense else 8) * metre


def _draw_building(
    site: _Site, spot: tuple[float, float], size: tuple[float, float], turn: float, favourites: npt.NDArray[np.int64]
) -> None:
    """One building with its shadow, where the ground is free."""
    rng, canvas, metre, sun = site.rng, site.canvas, site.metre, site.sun
    base, spread, pitched = ROOFS[rng.choice(favourites)]
    color = np.array(base) + rng.normal(0, spread / 2) + rng.normal(0, 4, 3)
    half = np.array(size) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    ell = not pitched and rng.random() < 0.35
    cos, sin = math.cos(turn), math.sin(turn)
    middle = site.plan.to_pixels(np.array([spot, (spot[0] + 1, spot[1]), (spot[0], spot[1] + 1)]))
    axes = middle[1:] - middle[0]
    rotation = np.array([[cos, sin], [-sin, cos]]) @ axes

    def place(local: Points) -> Points:
        return np.asarray(middle[0] + local @ rotation)

    outline = place(corners)
    if not canvas.is_free(outline, 0.8 * metre):
        return
    cut = rng.uniform(0.35, 0.6, 2) * 2 - 1
    if ell:
        a, b = cut * half
        corners = np.array([[-half[0], -half[1]], [half[0], -half[1]], [half[0], b], [a, b], [a, half[1]],
                            [-half[0], half[1]]])  # fmt: skip
        outline = place(corners)
    tall = float(rng.uniform(2.8, 4.5) if rng.random() < 0.8 else rng.uniform(5, 10))
    shift = np.array(sun) * tall
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        canvas.draw_shade.polygon([*start, *end, *(end + shift), *(start + shift)], fill=255)
    canvas.draw_shade.polygon((outline + shift).ravel().tolist(), fill=255)

    def tint(light: float) -> tuple[int, int, int]:
        red, green, blue = (int(c) for c in np.clip(color * light, 0, 255))
        return red, green, blue

    canvas.polygon(outline, tint(1.0), BUILDING, 45)
    to_sun = -np.array(sun) / max(1e-9, math.hypot(*sun))
    if pitched:
        ridge = int(half[1] > half[0])
        inset = rng.choice([0.0, 0.5]) * min(half)
        ends = np.zeros((2, 2))
        ends[:, ridge] = (-half[ridge] + inset, half[ridge] - inset)
        first, second = place(ends)
        order = (0, 1, 2, 3) if ridge == 0 else (3, 0, 1, 2)
        a, b, c, d = (outline[i] for i in order)
        steep = rng.uniform(0.08, 0.26)
        for face in ([a, b, second, first], [b, c, second], [c, d, first, second], [d, a, first]):
            outward = np.mean(face[:2], axis=0) - middle[0]
            lit = 1 + steep * float(outward @ to_sun) / max(1e-9, math.hypot(*outward))
            canvas.polygon(np.array(face), tint(lit), None)
    else:
        rim = place(corners * (1 - 0.7 * metre / max(half)))
        canvas.polygon(rim, tint(rng.uniform(0.88, 0.97)), None)
        for _ in range(rng.integers(0, 4)):
            at = rng.uniform(-0.6, 0.1, 2) * half
            box = at + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * rng.uniform(0.8, 2, 2) * metre
            canvas.polygon(place(box), tint(rng.uniform(0.6, 1.3)), None)


def _draw_trees(site: _Site) -> None:
    """Trees, in groups: shadows first, then crowns of several leafy lumps, lit from the sun's side."""
    rng, canvas, metre, sun = site.rng, site.canvas, site.metre, site.sun
    count = int(canvas.height * canvas.width / metre**2 / 65 * rng.uniform(0.3, 1.0))
    grove = np.clip(_cloudy(rng, canvas.height, canvas.width, 45 * metre, 3) + 0.4, 0.08, 1.2)
    spots = rng.uniform(0, 1, (count, 2)) * (canvas.width, canvas.height)
    keep = rng.uniform(0, 1, count) < grove[spots[:, 1].astype(int), spots[:, 0].astype(int)]
    radii = rng.gamma(6, 0.38, count) * metre
    pixels = canvas.labels.load()
    assert pixels is not None
    standing = [
        (float(x), float(y), float(r))
        for (x, y), r, k in zip(spots, radii, keep, strict=True)
        if k and pixels[int(x), int(y)] in (GROUND, VEGETATION)
    ]
    for x, y, r in standing:
        tall = r / metre * 1.3
        _disc(canvas.draw_shade, x + sun[0] * tall, y + sun[1] * tall, r * 0.95, 235)
    to_sun = -np.array(sun) / max(1e-9, math.hypot(*sun))
    dark, light = (np.array(tone, float) for tone in site.green)
    for x, y, r in standing:
        tone = dark + rng.uniform(-0.2, 0.7) * (light - dark) + rng.normal(0, 4, 3)
        lumps = rng.normal(0, 0.32, (5, 2)) * r
        sizes = rng.uniform(0.5, 0.85, 5) * r
        for (dx, dy), size in zip(lumps, sizes, strict=True):
            _disc(canvas.draw_label, x + dx, y + dy, size, VEGETATION)
            _disc(canvas.draw_grain, x + dx, y + dy, size, 255)
            _disc(canvas.draw_shade, x + dx, y + dy, size, 0)
            _disc(canvas.draw_paint, x + dx, y + dy, size, _rgba(tone * 0.72))
        for step, lit in ((0.12, 0.9), (0.26, 1.08), (0.4, 1.25)):
            for (dx, dy), size in zip(lumps, sizes, strict=True):
                inner = size * (1.0 - step * 1.5)
                at = np.array([x + dx, y + dy]) + to_sun * size * step
                _disc(canvas.draw_paint, float(at[0]), float(at[1]), inner, _rgba(tone * lit))


def _rgba(color: Points) -> tuple[int, int, int, int]:
    red, green, blue = (int(c) for c in np.clip(color, 0, 255))
    return red, green, blue, 255


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int | tuple[int, int, int, int]) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _expose(rng: np.random.Generator, canvas: _Canvas, base: Floats, metre: float) -> npt.NDArray[np.uint8]:
    """Put the layers together under the sun and through a lens: texture, shadow, haze, blur, sensor noise."""
    height, width = canvas.height, canvas.width
    labels = np.asarray(canvas.labels)
    layer = np.asarray(canvas.paint)
    image = np.where(layer[..., 3:] > 0, layer[..., :3].astype(np.float32), base)
    sea = labels == WATER
    if sea.any():
        tone = np.array(WATERS[rng.integers(len(WATERS))], np.float32)
        depth = _cloudy(rng, height, width, 35 * metre, 3) * 5 + _noise(rng, height, width, 1.5 * metre) * 1.5
        image = np.where(sea[..., None], tone + depth[..., None], image)
    fine = _noise(rng, height, width, 0.6 * metre) + 0.8 * _noise(rng, height, width, 0.35 * metre)
    strength = np.where(sea, 0.004, 0.035 + np.asarray(canvas.grain, np.float32) / 255 * 0.11)
    image *= (1 + fine * strength + 0.04 * _noise(rng, height, width, 60 * metre))[..., None]
    soft = np.asarray(canvas.shade.filter(ImageFilter.GaussianBlur(0.35 * metre)), np.float32) / 255
    soft = np.where(labels == BUILDING, 0, soft)[..., None]
    image *= 1 - soft * np.array([0.62, 0.57, 0.48], np.float32) * np.float32(rng.uniform(0.75, 1.0))
    gain = rng.uniform(0.85, 1.15) * (1 + rng.normal(0, 0.04, 3))
    haze = rng.uniform(0, 26)
    image = np.clip(image * gain.astype(np.float32) * np.float32(1 - haze / 255) + np.float32(haze), 0, 255)
    lens = Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.45, 0.85)))
    grain = rng.uniform(0.8, 3.0)
    grey = rng.standard_normal((height, width, 1), np.float32) * np.float32(grain)
    tinted = rng.standard_normal((height, width, 3), np.float32) * np.float32(grain * 0.4)
    pixels: Floats = np.asarray(lens, np.float32) + grey + tinted + np.float32(0.5)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def near_infrared(rgb: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """A near-infrared band (height, width) that goes with a rendered scene: leaves shine, water is black."""
    rng = np.random.default_rng(seed)
    green = rgb[..., 1].astype(np.float32)
    share = np.array([1.05, 0.95, 0.9, 2.1, 0.35], np.float32)[labels]
    noise = rng.standard_normal(labels.shape, np.float32) * np.float32(1.5)
    return np.clip(green * share + noise, 0, 255).astype(np.uint8)


def main(folder: Path) -> None:
    """Write the sample rasters into ``folder``: image, labels and label polygons of each."""
    rgb, labels = render(1100, 1500, seed=SEEDS["settlement"])
    _write(folder / "settlement.tif", np.moveaxis(rgb, -1, 0), labels, (534210.0, 9318400.0))
    rgb, labels = render(97, 61, seed=SEEDS["tiny"])
    _write(folder / "tiny.tif", np.moveaxis(rgb, -1, 0), labels, (534950.0, 9318900.0))
    _write(folder / "collar.tif", *collar(), (535600.0, 9317700.0))


SEEDS = {"settlement": 52, "collar": 21, "tiny": 3}


def collar() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """A 12-bit scene (4, 391, 523) of red, green, blue, near-infrared, slanted in a frame of zeros: no data there."""
    rgb, labels = render(391, 523, seed=SEEDS["collar"])
    bands = np.concatenate([rgb, near_infrared(rgb, labels, SEEDS["collar"])[..., None]], axis=-1)
    pixels = np.moveaxis(bands.astype(np.uint16) * 11 + 180, -1, 0)
    rows, cols = np.mgrid[0:391, 0:523]
    inside = (np.abs((cols - 261) + 0.17 * (rows - 195)) < 205) & (np.abs((rows - 195) - 0.17 * (cols - 261)) < 150)
    return np.where(inside, pixels, 0).astype(np.uint16), np.where(inside, labels, 255).astype(np.uint8)


def _write(
    path: Path,
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    labels: npt.NDArray[np.uint8],
    corner: tuple[float, float],
) -> None:
    """Write pixels (band, y, x), labels (y, x) and the polygons of the labels."""
    import rasterio
    from affine import Affine
    from rasterio.crs import CRS

    nodata = {"nodata": 0} if pixels.shape[0] == 4 else {}
    profile = {
        "driver": "GTiff",
        "height": labels.shape[0],
        "width": labels.shape[1],
        "crs": CRS.from_epsg(32737),
        "transform": Affine(0.3, 0, corner[0], 0, -0.3, corner[1]),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "zlevel": 9,
    }
    color = {"photometric": "rgb"}
    bands = {"count": pixels.shape[0], "dtype": pixels.dtype.name, "predictor": 2, "interleave": "pixel"}
    with rasterio.open(path, "w", **profile, **color, **bands, **nodata) as raster:
        raster.write(pixels)
        raster.descriptions = ("red", "green", "blue", "near infrared")[: pixels.shape[0]]
    colors = {i: tuple(bytes.fromhex(c[1:])) for i, c in enumerate(CLASS_COLORS)}
    target = path.with_name(f"{path.stem}_labels.tif")
    with rasterio.open(target, "w", **profile, count=1, dtype="uint8", nodata=255) as raster:
        raster.write(labels, 1)
        raster.write_colormap(1, colors)
        raster.update_tags(1, **{f"class_{i}": name for i, name in enumerate(CLASS_NAMES)})
    _write_polygons(path.with_name(f"{path.stem}_labels.geojson"), labels, profile)


def _write_polygons(path: Path, labels: npt.NDArray[np.uint8], profile: dict[str, object]) -> None:
    """Everything but ground, as polygons in WGS 84 smoothed by half a metre; neighbours still share their border."""
    import geopandas
    import rasterio.features
    import shapely
    from shapely.geometry import shape

    found = rasterio.features.shapes(labels, mask=labels != 255, transform=profile["transform"])
    pairs = [(shape(geometry), int(value)) for geometry, value in found]
    smooth = shapely.coverage_simplify(np.array([geometry for geometry, _ in pairs]), 0.5)
    frame = geopandas.GeoDataFrame({"class_id": [c for _, c in pairs]}, geometry=smooth, crs=profile["crs"])
    frame = frame[(frame.class_id != GROUND) & (frame.area > 4)].to_crs(4326)
    features = [
        {
            "type": "Feature",
            "properties": {"class_id": class_id, "class": CLASS_NAMES[class_id]},
            "geometry": json.loads(shapely.to_geojson(shapely.orient_polygons(shapely.set_precision(geometry, 1e-6)))),
        }
        for class_id, geometry in zip(frame.class_id.tolist(), frame.geometry, strict=True)
    ]
    lines = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in features if feature["geometry"])
    path.write_text(f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parent)
