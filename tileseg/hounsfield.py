"""Windows on the values of scans, as radiologists name them: which Hounsfield units are told apart."""

from __future__ import annotations

from dataclasses import dataclass

from tileseg.errors import did_you_mean


@dataclass(frozen=True, slots=True)
class ValueWindow:
    """Values from ``center - width / 2`` to ``center + width / 2`` are told apart; the rest is clipped to them."""

    center: float
    """In the values of pixels."""
    width: float
    """Above 0, in the same unit."""

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest value."""
        return self.center - self.width / 2, self.center + self.width / 2


PRESETS = {
    "abdomen": ValueWindow(40, 400),
    "angiography": ValueWindow(300, 600),
    "bone": ValueWindow(400, 1800),
    "brain": ValueWindow(40, 80),
    "liver": ValueWindow(30, 150),
    "lung": ValueWindow(-600, 1500),
    "mediastinum": ValueWindow(50, 350),
    "spine": ValueWindow(50, 250),
    "stroke": ValueWindow(40, 40),
    "subdural": ValueWindow(75, 215),
    "temporal-bone": ValueWindow(600, 2800),
}
"""Name -> window in Hounsfield units, as viewers usually have it."""


def known_preset(name: str) -> str:
    """The name itself. Raises ValueError, which names the windows, where there is none of that name."""
    if name not in PRESETS:
        raise ValueError(f"{name!r}: expected one of {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    return name
