"""The folder of a training: which training it holds, whether that is finished, and what a new one removes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tileseg.errors import InputError, UsageError
from tileseg.nn.folder import ARCHIVE, load_card, resolve_model
from tileseg.storage.digest import file_sha256
from tileseg.storage.store import write_atomic
from tileseg.train.checkpoint import Progress, Store
from tileseg.train.spec import ALGORITHM, TrainSpec

_CARD = "card.json"


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """Where one training keeps its files."""

    spec: TrainSpec
    fingerprint: str
    """Digest of what decides which model comes out: the options, the dataset's description, and other models."""
    models: dict[str, str]
    """Digests of the models that are learnt from, by the option that names them."""

    @classmethod
    def of(cls, spec: TrainSpec) -> TrainingFolder:
        """The folder that ``spec`` names; the dataset's TOML, a teacher's card and a network's file are read."""
        models = {} if spec.teacher is None else {"teacher": load_card(resolve_model(spec.teacher)).digest}
        if spec.quantize is not None and spec.init is not None:
            models["init"] = load_card(resolve_model(spec.init)).digest
        if (file := spec.network.file) is not None and file.is_file():
            models["network"] = file_sha256(file)
        decides = [ALGORITHM, spec.choices(), *([models] if models else [])]
        text = json.dumps(decides, sort_keys=True)
        return cls(spec, hashlib.sha256(text.encode() + spec.dataset.read_bytes()).hexdigest(), models)

    @property
    def root(self) -> Path:
        """Journal, pictures and state, beside the model."""
        return self.spec.out / "training"

    @property
    def store(self) -> Store:
        """The checkpoints."""
        return Store(self.root / ".state")

    @property
    def options(self) -> Path:
        """``train.json``: the options that the training began with."""
        return self.root / "train.json"

    @property
    def summary(self) -> Path:
        """``summary.json``: written last, so that its presence means done."""
        return self.root / "summary.json"

    @property
    def curves(self) -> Path:
        """The picture of loss and scores."""
        return self.root / "curves.png"

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds anything that was learnt; only then must its options stay the same."""
        return self.store.last.exists() or self.store.best.exists()

    def finished(self) -> Progress | None:
        """How far the training came, if the folder holds this one and nothing is left to do. Changes no file.

        Raises UsageError where the folder is that of another training, or of a model.
        """
        spec = self.spec
        if spec.overwrite:
            if spec.init is not None and spec.init.resolve() == spec.out.resolve():
                raise UsageError(f"--init {spec.init}: --overwrite would remove it; choose another --out")
            return None
        if not self.has_weights:
            if (spec.out / _CARD).is_file():
                raise UsageError(f"{spec.out}: holds a model already; choose another --out, or give --overwrite")
            return None
        found = json.loads(self.options.read_text(encoding="utf-8")) if self.options.is_file() else {}
        if found.get("fingerprint") != self.fingerprint:
            raise UsageError(
                f"{spec.out}: was trained with other options ({self._first_change(found)}); choose another --out, or "
                "start anew with --overwrite"
            )
        checkpoint = self.store.read(self.store.last) if self.summary.is_file() else None
        return None if checkpoint is None else checkpoint.progress

    def check_writable(self) -> None:
        """Raise InputError where the folder cannot be made or written, as far as that shows without writing."""
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise InputError(f"{self.spec.out}: cannot be written: {place} is a file; choose another --out")
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{self.spec.out}: cannot be written: {place} is read-only; choose another --out")

    def claim(self) -> None:
        """Make the folder this training's. Where there is nothing to go on with, another training's files go."""
        if self.spec.overwrite or not self.has_weights:
            # First what says that something is finished: killed in between, nothing old is taken for new.
            model = (self.spec.out / _CARD, self.spec.out / ARCHIVE)
            for path in (self.summary, *model, self.store.last, self.store.best):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.root / "tensorboard", ignore_errors=True)
            for path in (*self.root.glob("panel-*.png"), self.curves):
                path.unlink(missing_ok=True)
        about = {
            "fingerprint": self.fingerprint,
            "algorithm": ALGORITHM,
            "dataset": str(self.spec.dataset),
            "spec": self.spec.choices(),
            **({"models": self.models} if self.models else {}),
        }
        write_atomic(self.options, json.dumps(about, indent=2) + "\n")

    def _first_change(self, begun: dict[str, Any]) -> str:
        """What is other than it was when ``train.json`` was written."""
        before, now = begun.get("spec", {}), self.spec.choices()
        for name in {**now, **before}:
            option, was, value = f"--{name.replace('_', '-')}", before.get(name), now.get(name)
            if was == value:
                continue
            if isinstance(was, list) or isinstance(value, list):
                return f"{option} {_listed(was)}, now {_listed(value)}"
            if isinstance(was, dict) and isinstance(value, dict):
                key = next(key for key in (*value, *was) if was.get(key) != value.get(key))
                return f"{option} {key}={was.get(key)}, now {value.get(key)}"
            return f"{option} {was}, now {value}"
        if begun.get("algorithm", 1) != ALGORITHM:
            return "an earlier tileseg trained otherwise with them"
        for name, digest in self.models.items():
            if begun.get("models", {}).get(name) != digest:
                path = self.spec.network.file if name == "network" else getattr(self.spec, name)
                return f"--{name} {path} is another model by now"
        return "the dataset's file has changed"


def _listed(value: Any) -> str:
    """A list as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
