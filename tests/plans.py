"""Plans by the names of single options."""

from __future__ import annotations

from dataclasses import fields

from tileseg.card import ModelCard
from tileseg.plan import Plan
from tileseg.tiling import Resources, SceneShape, TilingChoice, ViewChoice, make_plan


def planned(size: tuple[int, int], card: ModelCard, **options) -> Plan:
    """The plan of a scene of three bands of a byte; ``options``: fields of ViewChoice, TilingChoice, Resources."""
    kinds = (ViewChoice, TilingChoice, Resources)
    names = [{field.name for field in fields(kind)} for kind in kinds]
    assert set(options) <= set().union(*names)
    choices = (
        kind(**{name: value for name, value in options.items() if name in mine})
        for kind, mine in zip(kinds, names, strict=True)
    )
    return make_plan(SceneShape(size, 3, 1), card, *choices)
