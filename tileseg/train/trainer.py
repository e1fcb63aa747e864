"""One training, from a spec to a model folder; begun anew, or gone on with where it was stopped."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tileseg.dataset.dataset import Dataset, load_dataset
from tileseg.dataset.labelled import mask_doubt
from tileseg.dataset.patches import PatchSampler, count_cells, prefetched, validation_windows
from tileseg.dataset.statistics import DatasetStatistics, statistics
from tileseg.errors import InputError, Interrupted, TilesegError, UsageError
from tileseg.nn.backend import Replicas, configure, devices, keras
from tileseg.nn.bundle import load_bundle, save_bundle
from tileseg.nn.encoder_weights import load_encoder_weights
from tileseg.nn.folder import ARCHIVE, load_card, resolve_model
from tileseg.nn.fused import fuse
from tileseg.nn.unet import build_network, part_of, training_model
from tileseg.run.ledger import Ledger
from tileseg.storage.store import write_atomic
from tileseg.train.augment import Augmenter
from tileseg.train.checkpoint import Checkpoint, Progress, Store
from tileseg.train.journal import Journal
from tileseg.train.losses import Loss, parse_loss
from tileseg.train.optimizer import PartwiseAdam, RunningMean
from tileseg.train.pictures import write_curves, write_panel
from tileseg.train.rates import learning_rate
from tileseg.train.spec import TrainSpec
from tileseg.train.step import Trained, compile_labels, compile_step, computing_in
from tileseg.train.validation import Place, Score, read_unit, validate, window_side
from tileseg.train.values import Values, values_like, values_of

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
_FORWARD_SHARE = 1 / 3
"""Of the work of a step, what looking alone takes: going back through the layers takes twice as much."""
_EXAMPLES = 4
"""In a panel."""
_BLOCKS = 5
"""Of an encoder."""
_CARD, _CURVES = "card.json", "curves.png"


class Listener(Protocol):
    """Is told how a training goes."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""

    def start(self, spec: TrainSpec, about: str, progress: Progress) -> None:
        """The first step is about to be taken."""

    def step(self, progress: Progress, share: float, loss: float, rate: float) -> None:
        """A step was taken; ``share`` of the training is over."""

    def validation(self, progress: Progress, score: Score, *, best: bool) -> None:
        """The network was validated."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came out."""

    out: Path
    progress: Progress
    score: Score | None
    """Of the model that was saved, on all validation windows; None without validation scenes."""
    already: bool = False
    """Whether it was finished before."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"model": str(self.out), **_facts(self.progress, self.score), "already_finished": self.already}


def train(spec: TrainSpec, listener: Listener, stop: threading.Event | None = None) -> TrainReport:
    """Train a network and write its model folder; go on where an interrupted training with the same options stopped.

    ``stop`` ends it after the step in progress; what is best so far is in the folder then.

    Raises:
        UsageError: If an option makes no sense, or the folder holds a training with other options.
        InputError: If the dataset cannot be used.
        Interrupted: If it was stopped.
        TilesegError: If the loss is no number any more.
    """
    configure()
    training = _Training(spec, listener, stop or threading.Event())
    if (finished := training.finished()) is not None:
        return finished
    training.prepare()
    with Ledger(training.store.root).lock():
        # Asked again, as another process may have worked here meanwhile.
        return training.finished() or training.run()


class _Training:
    """Everything that one training works with."""

    def __init__(self, spec: TrainSpec, listener: Listener, stop: threading.Event) -> None:
        self.spec, self.listener, self.stop = spec, listener, stop
        self.folder = spec.out / "training"
        self.store = Store(self.folder / ".state")
        self.dataset: Dataset = load_dataset(spec.dataset, gsd=spec.gsd)
        self.classes = self.dataset.classes
        if not self.dataset.train:
            raise InputError(f'{spec.dataset}: no scenes to train on; expected split = "train"')
        self.fingerprint = _fingerprint(spec)
        self.told, self.summary = self.folder / "train.json", self.folder / "summary.json"

    @property
    def _begun(self) -> bool:
        """Whether the folder holds anything that was learnt; without that, what it says of options binds nobody."""
        return self.store.last.exists() or self.store.best.exists()

    def finished(self) -> TrainReport | None:
        """The report, if the folder holds this training and nothing is left to do. Changes no file.

        Raises UsageError where the folder is that of another training, or of a model.
        """
        spec = self.spec
        if spec.overwrite:
            if spec.init is not None and spec.init.resolve() == spec.out.resolve():
                raise UsageError(f"--init {spec.init}: --overwrite would remove it; choose another --out")
            return None
        if not self._begun:
            if (spec.out / _CARD).is_file():
                raise UsageError(f"{spec.out}: holds a model already; choose another --out, or give --overwrite")
            return None
        found = json.loads(self.told.read_text(encoding="utf-8")) if self.told.is_file() else {}
        if found.get("fingerprint") != self.fingerprint:
            changed = _first_change(found, spec)
            raise UsageError(
                f"{spec.out}: was trained with other options ({changed}); choose another --out, or start anew with "
                "--overwrite"
            )
        checkpoint = self.store.read(self.store.last) if self.summary.is_file() else None
        return None if checkpoint is None else TrainReport(spec.out, checkpoint.progress, None, already=True)

    def prepare(self) -> None:
        """Everything before the first step that changes no file, so that a mistake that shows here costs nothing."""
        spec = self.spec
        if (unsized := _unsized(self.dataset)) is not None:
            self.listener.notice(unsized)
        if spec.warmup is not None and spec.last_step is not None and spec.warmup > spec.last_step:
            self.listener.notice(
                f"--warmup {spec.warmup}: is longer than the training ({spec.last_step} "
                f"step{'s' * (spec.last_step != 1)}), so the learning rate never reaches {spec.rate:g}"
            )
        found = statistics(self.dataset.train, classes=len(self.classes), limits=spec.value_limits)
        self.values = values_of(spec, self.dataset.dtype, found)
        if spec.init is not None:
            self.values = values_like(load_card(resolve_model(spec.init)), self.values)
        self._build(_loss(spec, self.dataset, found))
        self.progress = Progress()
        # Another process may replace the state before the folder is ours; its own would have become the same.
        checkpoint = None if spec.overwrite else self.store.read(self.store.last)
        if checkpoint is not None:
            self._restore(checkpoint)
        elif spec.init is not None:
            _start_from(self.network, spec.init)
        elif spec.encoder_weights is not None:
            load_encoder_weights(self.model, spec.encoder_weights)
        self._read_labels()
        self._choose_places()

    def run(self) -> TrainReport:
        """Take the steps; see :func:`train`. The folder is locked, and was prepared for."""
        self._claim()
        with Journal(self.folder, [info.name for info in self.classes], self.progress.step) as self.journal:
            self.listener.start(self.spec, self._about(), self.progress)
            try:
                self._loop()
            except Interrupted:
                if not self.store.best.exists():
                    with self._averaged():
                        self._write_model(self.progress, None, done=False)
                raise
        return self._finish()

    def _claim(self) -> None:
        """Make the folder ours. Where there is nothing to go on with, what another training left is removed."""
        if self.spec.overwrite or not self._begun:
            # First what says that something is finished: killed in between, nothing old is taken for new.
            model = (self.spec.out / _CARD, self.spec.out / ARCHIVE)
            for path in (self.summary, *model, self.store.last, self.store.best):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            for path in (*self.folder.glob("panel-*.png"), self.folder / _CURVES):
                path.unlink(missing_ok=True)
        about = {
            "fingerprint": self.fingerprint,
            "algorithm": self.spec.algorithm,
            "dataset": str(self.spec.dataset),
            "spec": self.spec.choices(),
        }
        write_atomic(self.told, json.dumps(about, indent=2) + "\n")

    def _read_labels(self) -> None:
        """Count the labels of all scenes: one that is no class shows before the first step, wherever it is."""
        spec = self.spec
        # Larger patches than are learnt from, so that what turns or shrinks brings in its real surroundings.
        margin = spec.crop // 8 if spec.augment.moves else 0
        self.sampler = PatchSampler(
            self.dataset.train, size=spec.crop + 2 * margin, batch=spec.batch, seed=spec.seed, balance=spec.balance
        )
        validated = count_cells(self.dataset.validate, len(self.classes), self.sampler.cells.side)
        doubts = []
        for scene, counts in zip(self.dataset.scenes, self.sampler.cells.counts + validated.counts, strict=True):
            known = counts.sum(axis=(0, 1), dtype=np.int64)
            # Only a scene of one class and of what is not known can be a mask: others are not read again.
            if np.count_nonzero(known) == 1 and known.sum() < scene.extent.pixels and (doubt := mask_doubt(scene)):
                doubts.append(doubt)
        if doubts:
            self.listener.notice(doubts[0] + _and_more(len(doubts)))

    def _build(self, loss: Loss) -> None:
        """Network, step, optimizer and running mean, at their start."""
        spec = self.spec
        keras.utils.set_random_seed(spec.seed)
        names = devices()
        if spec.batch % len(names):
            raise UsageError(f"--batch {spec.batch}: cannot be shared by {len(names)} devices; expected a multiple")
        replicas = Replicas(names)
        with replicas.scope():
            with computing_in(spec.precision):
                self.model = fuse(build_network(spec.network, len(self.dataset.bands), len(self.classes)))
                self.network = training_model(self.model) if spec.network.deep_supervision else self.model
            self.trained = Trained(self.network, loss, self.values.mean, self.values.std, replicas)
            adam = PartwiseAdam(
                rate=spec.rate,
                decay=spec.weight_decay if spec.optimizer == "adamw" else 0.0,
                # Each device clips its share of the gradients, which are summed then.
                clip=None if spec.clip is None else spec.clip * replicas.loss_share,
                accumulate=spec.accumulate,
                share=lambda variable: 1.0 if _part(variable) == "decoder" else spec.encoder_rate,
            )
            self.optimizer = keras.optimizers.LossScaleOptimizer(adam) if spec.precision == "float16" else adam
            self.optimizer.build(self.network.trainable_variables)
        self.replicas = replicas
        self.mean = RunningMean(self.network.weights, spec.ema) if spec.ema else None
        self._released: int | None = None

    @cached_property
    def _plain(self) -> keras.Model:
        """The network as it is saved: float32, without what serves training only."""
        with computing_in("float32"):
            return build_network(self.spec.network, len(self.dataset.bands), len(self.classes))

    def _choose_places(self) -> None:
        """Which windows are validated during the training, and which in the end."""
        spec = self.spec
        shortest = max((max(s.grid.height, s.grid.width) for s in self.dataset.validate), default=spec.crop)
        self.side = window_side(shortest, spec.crop)
        self.places = validation_windows(self.dataset.validate, self.side)
        budget = spec.validation_share * spec.steps_per_epoch * spec.batch * spec.crop**2 / _FORWARD_SHARE
        most = max(1, int(budget) // self.side**2)
        self.watched = validation_windows(self.dataset.validate, self.side, most)
        self.labels_of = compile_labels(self.trained)
        self.window_batch = max(1, spec.batch * spec.crop**2 // self.side**2)
        self.examples: list[Place] | None = None
        if not self.places:
            self.listener.notice('no scenes to validate on (split = "validate"): the last weights are kept, unscored')

    def _loop(self) -> None:
        """Step after step until the end, or until told to stop."""
        spec = self.spec
        began, before = time.monotonic(), self.progress
        augmenter = Augmenter(spec.augment, len(self.dataset.bands), spec.seed, size=spec.crop)

        def make(step: int) -> Batch:
            images, labels = self.sampler.batch(step)
            return augmenter(self.values.to_unit(images), labels, step)

        last = sys.maxsize if spec.last_step is None else spec.last_step
        batches = prefetched(make, before.step, last, ahead=spec.threads + 2, threads=spec.threads)
        with closing(batches):
            while not self._over():
                share = self._share()
                self._release(self.progress.step)
                rate = learning_rate(spec, self.progress.step, share, self.progress.plateau)
                asked = time.monotonic()
                images, labels = next(batches)
                waited = time.monotonic() - asked
                loss = self._learn(images, labels, rate)
                self.progress = replace(
                    self.progress,
                    step=self.progress.step + 1,
                    waited=self.progress.waited + waited,
                    seconds=before.seconds + time.monotonic() - began,
                )
                self._note(loss, rate)
                if self.progress.step % spec.steps_per_epoch == 0 or self._share() >= 1:
                    self._validate(before.seconds - began)
                if self.stop.is_set():
                    self._save()
                    raise Interrupted(
                        f"stopped after step {self.progress.step}; the best model so far is in {spec.out}; "
                        "the same command goes on"
                    )

    def _over(self) -> bool:
        """Whether there is nothing left to do."""
        if self.spec.patience is not None and self.progress.stale >= self.spec.patience:
            self.listener.notice(f"nothing better in {self.spec.patience} validations: stopped early")
            return True
        return self._share() >= 1

    def _share(self) -> float:
        """How much of the training is over."""
        spec, progress = self.spec, self.progress
        by_time = progress.seconds / (60 * spec.minutes) if spec.minutes is not None else 0.0
        by_steps = progress.step / spec.last_step if spec.last_step is not None else 0.0
        return min(1.0, max(by_time, by_steps))

    def _learn(self, images: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], rate: float) -> float:
        self.optimizer.learning_rate = rate
        loss = self.trained.step(images, labels)
        if not math.isfinite(loss):
            kept = (
                "what was best so far is kept, and other options need another --out, or --overwrite to start anew"
                if self._begun
                else "there is no model yet, so the same --out takes other options"
            )
            raise TilesegError(
                f"the loss is {loss} after step {self.progress.step + 1}, with a learning rate of {rate:.2g}: try a "
                f"lower --rate, a longer --warmup, --clip 1 or --precision float32, and look for values that are not "
                f"finite with `tileseg dataset check {self.spec.dataset}`; {kept}"
            )
        if self.mean is not None and (self.progress.step + 1) % self.spec.accumulate == 0:
            self.mean.update((self.progress.step + 1) // self.spec.accumulate)
        return loss

    def _release(self, step: int) -> None:
        """Freeze and release the encoder's blocks as the schedule of ``unfreeze`` says."""
        every = self.spec.unfreeze * self.spec.steps_per_epoch
        released = min(_BLOCKS, step // every) if every else _BLOCKS
        if released == self._released:
            return
        self._released = released
        frozen = {f"block{i}" for i in range(1, _BLOCKS + 1 - released)}
        for layer in self.network.layers:
            layer.trainable = part_of(layer.name) not in frozen
        with self.replicas.scope():
            compile_step(self.trained, self.optimizer)

    def _note(self, loss: float, rate: float) -> None:
        progress = self.progress
        self.journal.step(progress.step, loss=loss, rate=rate, seconds=progress.seconds, waited=progress.waited)
        self.listener.step(progress, self._share(), loss, rate)

    def _validate(self, offset: float) -> None:
        """Score the network, keep it if it is the best, and save the state."""
        if self.watched:
            began = time.monotonic()
            with self._averaged():
                score = self._score(self.watched)
                best = score.score > self.progress.best_score
                if best:
                    kept = replace(self.progress, best_score=score.score, best_step=self.progress.step, stale=0)
                    self.store.save(self.store.best, {"weights": self.model.weights}, kept, self.fingerprint)
                    self._write_model(kept, score, done=False)
                else:
                    kept = replace(self.progress, stale=self.progress.stale + 1)
                count = self.progress.step // self.spec.steps_per_epoch
                if self.spec.panel_every and count % self.spec.panel_every == 0:
                    self._draw_panel(self.folder / f"panel-{self.progress.step:06d}.png")
            now = time.monotonic()
            self.progress = replace(
                kept,
                plateau=kept.plateau.after(score.score, self.spec.plateau_epochs),
                validating=kept.validating + now - began,
                seconds=offset + now,
            )
            self.journal.validation(self.progress.step, score=score.score, mean_iou=score.mean_iou, iou=score.iou)
            self.listener.validation(self.progress, score, best=best)
        self._save()
        write_curves(self.folder / _CURVES, self.folder, self.classes)

    def _score(self, places: list[Place]) -> Score:
        return validate(
            self.labels_of, places, self.classes, self.values,
            side=self.side, batch=self.window_batch, threads=self.spec.threads,
        )  # fmt: skip

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the network has the running mean of its weights, if there is one."""
        if self.mean is None:
            yield
            return
        self.mean.swap()
        try:
            yield
        finally:
            self.mean.swap()

    def _save(self) -> None:
        """Keep the state."""
        groups = {"network": self.network.variables, "optimizer": self.optimizer.variables}
        if self.mean is not None:
            groups["mean"] = self.mean.variables
        self.journal.flush()
        self.store.save(self.store.last, groups, self.progress, self.fingerprint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a state."""
        checkpoint.restore("network", self.network.variables)
        checkpoint.restore("optimizer", self.optimizer.variables)
        if self.mean is not None:
            checkpoint.restore("mean", self.mean.variables)
        self.progress = checkpoint.progress

    def _finish(self) -> TrainReport:
        """Score the best weights on all validation windows, and write them as the model."""
        best = self.store.read(self.store.best)
        if best is not None:
            best.restore("weights", self.model.weights)
        elif self.mean is not None:
            self.mean.swap()
        score = self._score(self.places) if self.places else None
        if self.places and self.spec.panel_every:
            self._draw_panel(self.folder / "panel-best.png")
        self._write_model(self.progress, score, done=True)
        report = TrainReport(self.spec.out, self.progress, score)
        write_atomic(self.summary, json.dumps(report.to_json(), indent=2) + "\n")
        return report

    def _write_model(self, progress: Progress, score: Score | None, *, done: bool) -> None:
        """Write the model folder from the network's weights."""
        spec, dataset = self.spec, self.dataset
        self._plain.set_weights(self.model.get_weights())
        save_bundle(
            self._plain,
            spec.out,
            name=spec.name or spec.out.resolve().name,
            description=f"Trained by tileseg on {spec.dataset.stem}.",
            bands=dataset.bands,
            classes=self.classes,
            scaling=self.values.scaling,
            dtypes=(dataset.dtype,),
            ground_sample_distance=_ground_sample_distance(dataset),
            credits=dataset.credits,
            training={**_facts(progress, score), "finished": done, "spec": spec.told()},
        )

    def _draw_panel(self, path: Path) -> None:
        if self.examples is None:
            self.examples = _telling(validation_windows(self.dataset.validate, self.side, 32), self.side, self.values)
        chosen = [read_unit(place, self.side, self.values) for place in self.examples]
        images, truth = (np.stack(parts) for parts in zip(*chosen, strict=True))
        found = []
        for i in range(0, len(images), self.window_batch):
            part = images[i : i + self.window_batch]
            full = np.concatenate([part, np.repeat(part[-1:], self.window_batch - len(part), axis=0)])
            found.append(self.labels_of(full)[: len(part)])
        write_panel(path, images, truth, np.concatenate(found), self.classes)

    def _about(self) -> str:
        count = len(self.dataset.train)
        scenes = f"{count} scene{'s' * (count != 1)} to train on, {len(self.dataset.validate)} to validate on"
        watched = f"{len(self.watched)} of {len(self.places)} validation windows"
        gsd = _ground_sample_distance(self.dataset)
        return (
            f"{scenes} ({watched}), {'' if gsd is None else f'{gsd:g} m per pixel, '}"
            f"{self.model.count_params():,} parameters, {self.spec.precision}"
        )


def _ground_sample_distance(dataset: Dataset) -> float | None:
    """Metres per pixel that the network is trained at: the median scene's where scenes are read as they are.

    None where no scene for training says its own: then none can have been resampled.
    """
    known = [s.ground_sample_distance for s in dataset.train if s.ground_sample_distance is not None]
    if not known:
        return None
    return dataset.ground_sample_distance or round(median(known), 4)


def _unsized(dataset: Dataset) -> str | None:
    """What to say of scenes whose ground sample distance is not known while one was asked for, or others have one."""
    without = [scene for scene in dataset.scenes if scene.ground_sample_distance is None]
    asked = dataset.ground_sample_distance
    if not without or (asked is None and len(without) == len(dataset.scenes)):
        return None
    instead = "" if asked is None else f" instead of at {asked:g} m per pixel"
    card = "" if _ground_sample_distance(dataset) is not None else ", and the model's card names none"
    return (
        f"{without[0].scene.path}: does not say its ground sample distance, so it is read as it is{instead}{card}; "
        f"give pixel_size (metres){_and_more(len(without))}"
    )


def _and_more(count: int) -> str:
    """Behind what was said of the first of several."""
    return f" ({count - 1} more like it)" if count > 1 else ""


def _part(variable: Any) -> str:
    """The part of the network that a variable belongs to, by its layer's name."""
    return part_of(variable.path.partition("/")[0])


def _telling(places: list[Place], side: int, values: Values) -> list[Place]:
    """The few windows whose labels are the most mixed, whole ones first."""

    def mixed(place: Place) -> float:
        _, labels = read_unit(place, side, values)
        shares = np.bincount(labels.ravel(), minlength=256)[:255] / labels.size
        return float((shares * (1 - shares)).sum())

    whole = [place for place in places if place[1].pixels == side**2]
    return sorted(whole or places, key=mixed, reverse=True)[:_EXAMPLES]


def _loss(spec: TrainSpec, dataset: Dataset, found: DatasetStatistics) -> Loss:
    weights: tuple[float, ...] | None
    if spec.class_weights == "balanced":
        shares = np.maximum(np.asarray(found.class_shares, np.float64), 1e-4)
        rarity = 1 / np.sqrt(shares)
        weights = tuple(float(w) for w in rarity / rarity.mean())
    else:
        weights = spec.class_weights
    background = next((i for i, info in enumerate(dataset.classes) if info.background), None)
    return parse_loss(
        spec.loss,
        classes=len(dataset.classes),
        background=background,
        class_weights=weights,
        label_smoothing=spec.label_smoothing,
        focal_alpha=spec.focal_alpha,
        focal_gamma=spec.focal_gamma,
        tversky_beta=spec.tversky_beta,
    )


def _start_from(network: keras.Model, folder: Path) -> None:
    """Take over the weights of a model's layers that have the same names and shapes."""
    source, _ = load_bundle(resolve_model(folder))
    taken = 0
    for layer in network.layers:
        if not layer.weights:
            continue
        try:
            weights = source.get_layer(layer.name).get_weights()
        except ValueError:
            continue
        if [w.shape for w in weights] == [tuple(w.shape) for w in layer.weights]:
            layer.set_weights(weights)
            taken += 1
    if not taken:
        raise InputError(f"--init {folder}: none of its layers fits this network")


def _fingerprint(spec: TrainSpec) -> str:
    """Of what decides which model comes out: the options, and the dataset's description."""
    text = json.dumps([spec.algorithm, spec.choices()], sort_keys=True)
    return hashlib.sha256(text.encode() + spec.dataset.read_bytes()).hexdigest()


def _first_change(told: dict[str, Any], spec: TrainSpec) -> str:
    """What is other than it was when ``train.json`` was written."""
    before = told.get("spec", {})
    for name, value in spec.choices().items():
        option, was = f"--{name.replace('_', '-')}", before.get(name)
        if was == value:
            continue
        if isinstance(was, dict) and isinstance(value, dict):
            key = next(key for key in (*value, *was) if was.get(key) != value.get(key))
            return f"{option} {key}={was.get(key)}, now {value.get(key)}"
        return f"{option} {was}, now {value}"
    if told.get("algorithm", 1) != spec.algorithm:
        return "an earlier tileseg trained otherwise with them"
    return "the dataset's file has changed"


def _facts(progress: Progress, score: Score | None) -> dict[str, Any]:
    """Numbers for the card and the summary."""
    facts: dict[str, Any] = {
        "steps": progress.step,
        "minutes": round(progress.seconds / 60, 2),
        "best_step": progress.best_step or progress.step,
        "waiting_for_patches": round(progress.waited / max(progress.seconds, 1e-9), 4),
        "validating": round(progress.validating / max(progress.seconds, 1e-9), 4),
    }
    if score is not None:
        facts["mean_iou"] = round(score.mean_iou, 4)
        facts.update({f"iou_{name}": round(value, 4) for name, value in score.iou.items()})
        facts["iou_by_scene"] = {
            scene: {name: round(value, 4) for name, value in found.items()}
            for scene, found in score.iou_by_scene.items()
        }
    return facts
