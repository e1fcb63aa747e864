"""The whole state of a training in one file, replaced atomically: what makes it go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.errors import TilesegError
from tileseg.storage.local import until_whole
from tileseg.train.rates import Plateau


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is: plain numbers."""

    step: int = 0
    """Batches learnt from."""
    seconds: float = 0.0
    """Spent so far, over all runs."""
    waited: float = 0.0
    """Seconds, among these, in which the network waited for patches."""
    validating: float = 0.0
    """Seconds, among these, of validation."""
    best_score: float = -1.0
    """Highest validation score; -1 before the first."""
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""
    plateau: Plateau = field(default=Plateau())


@dataclass(frozen=True, slots=True)
class Store:
    """The checkpoints of one training, in a folder of its own."""

    root: Path

    @property
    def last(self) -> Path:
        """The latest state: weights, moments, means, progress."""
        return self.root / "last.npz"

    @property
    def best(self) -> Path:
        """The weights with the best validation score so far."""
        return self.root / "best.npz"

    def save(self, path: Path, groups: Mapping[str, Sequence[Any]], progress: Progress, fingerprint: str) -> None:
        """Write named groups of variables."""
        arrays = {
            f"{name}/{i}": np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
            for name, variables in groups.items()
            for i, variable in enumerate(variables)
        }
        about = json.dumps({"progress": asdict(progress), "fingerprint": fingerprint})
        self.root.mkdir(parents=True, exist_ok=True)
        with until_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.asarray(about), **arrays)
            file.flush()
            os.fsync(file.fileno())

    def read(self, path: Path) -> Checkpoint | None:
        """What was saved, or None if nothing was. Raises TilesegError if the file is damaged."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = {name: file[name] for name in file.files if name != "about"}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise TilesegError(f"{path}: damaged ({error}); delete it, or start anew with --overwrite") from error
        numbers = about["progress"]
        plateau = Plateau(**numbers.pop("plateau"))
        return Checkpoint(arrays, Progress(**numbers, plateau=plateau), about["fingerprint"])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state that was read."""

    arrays: dict[str, npt.NDArray[Any]]
    """``group/position`` -> values."""
    progress: Progress
    fingerprint: str
    """Digest of the options and the dataset that it was trained with."""

    def restore(self, name: str, variables: Sequence[Any]) -> None:
        """Give a group's values back to its variables."""
        for i, variable in enumerate(variables):
            variable.assign(self.arrays[f"{name}/{i}"])
