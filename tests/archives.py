"""Small archives of scenes, and what a batch delivers of them, for comparing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fakes import smooth_noise, write_scene


def draw_archive(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """``scene<i>.tif`` of the given heights and widths."""
    folder.mkdir(parents=True)
    for i, (height, width) in enumerate(sizes):
        write_scene(folder / f"scene{i}.tif", smooth_noise(height, width, 3, seed=i))
    return folder


def delivered(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in the folders of scenes, but those that hold times: the state, summaries, items."""
    files = [path for scene in sorted(folder.glob("*.tileseg")) for path in sorted(scene.rglob("*")) if path.is_file()]
    kept = [path for path in files if ".state" not in path.parts and path.name not in ("summary.json", "item.json")]
    assert kept, f"{folder}: no outputs"
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
