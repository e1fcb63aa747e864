"""A stack of images, each segmented as a scene of its own, and what is made of their labels."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tileseg.batch.archive import run_batch
from tileseg.batch.entry import Entry
from tileseg.batch.listener import BatchListener
from tileseg.batch.report import BatchReport
from tileseg.batch.spec import BatchSpec
from tileseg.card import ModelCard
from tileseg.errors import UsageError, did_you_mean
from tileseg.nn.folder import load_card, resolve_model
from tileseg.scan.nifti import write_nifti
from tileseg.scan.segmentation import write_segmentation
from tileseg.scan.series import Stack
from tileseg.scan.volume import NoVolume, Volume, as_table, gather, measure
from tileseg.storage.store import at

SLICES = "slices"
"""Folder of the slices' own outputs."""
MEASUREMENTS, TABLE = "measurements.json", "measurements.csv"

KINDS = {"nifti": "labels.nii.gz", "seg": "segmentation.dcm"}
"""What may be written of all slices together -> its file."""


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """What is made of a stack."""

    stack: Stack
    out: Path
    options: dict[str, Any] = field(default_factory=dict)
    """Options of ``tileseg run``, for every slice."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Which of :data:`KINDS` are written."""
    identified: bool = False
    """Whether the segmentation names the patient."""

    def __post_init__(self) -> None:
        for name in self.kinds:
            if name not in KINDS:
                raise UsageError(f"--write {name}: expected some of {', '.join(KINDS)}{did_you_mean(name, KINDS)}")


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What became of a stack."""

    slices: BatchReport
    outputs: dict[str, Path] = field(default_factory=dict)
    """Name -> place of what was made of all slices; nothing where some failed."""
    volumes: dict[str, Any] = field(default_factory=dict)
    """Class -> pixels and cubic millimetres."""


def run_scan(
    spec: ScanSpec,
    listener: BatchListener,
    stop: threading.Event,
    notice: Callable[[str], None],
) -> ScanReport:
    """Segment every slice, then write what is made of all of them. Slices that are finished are not done again.

    Raises UsageError where the options make no sense or a package is missing, InputError where the folder cannot be
    written.
    """
    card = load_card(resolve_model(spec.options.get("model", "embedded")))
    # Slices are small: a process of their own takes longer to start than most stacks do.
    elsewhere = {"workers", "scheduler", "scheduler_file", "cluster"} & set(spec.options)
    options = spec.options if elsewhere else {**spec.options, "workers": 0}
    report = run_batch(BatchSpec(_entries(spec.stack), spec.out / SLICES, options), listener, stop)
    if report.exit_code:
        return ScanReport(report)
    folders = [report.folder / result.folder for result in report.results]
    return _written(spec, card, report, [Path(str(folder)) for folder in folders], notice)


def _entries(stack: Stack) -> tuple[Entry, ...]:
    """A scene for each slice, named after its file, or with a digest where several files are called so."""
    entries = [Entry(one.scene, "") for one in stack.slices]
    shared = Counter(entry.names[0].casefold() for entry in entries)
    return tuple(replace(entry, folder=entry.names[int(shared[entry.names[0].casefold()] > 1)]) for entry in entries)


def _written(
    spec: ScanSpec, card: ModelCard, report: BatchReport, folders: list[Path], notice: Callable[[str], None]
) -> ScanReport:
    outputs: dict[str, Path] = {}
    with at(spec.out).workspace() as workspace:
        scratch = workspace / "labels.npy"
        volume = gather(spec.stack, card.classes, folders, scratch)
        measured = measure(volume, _root(spec.stack))
        (workspace / MEASUREMENTS).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        (workspace / TABLE).write_text(as_table(measured), encoding="utf-8")
        for kind in spec.kinds:
            try:
                _write(kind, volume, workspace / KINDS[kind], card.name, spec)
            except NoVolume as error:
                notice(f"no {KINDS[kind]}: {error}")
                (spec.out / KINDS[kind]).unlink(missing_ok=True)
            else:
                outputs[kind] = spec.out / KINDS[kind]
        del volume
        scratch.unlink()
    outputs |= {"measurements": spec.out / MEASUREMENTS, "table": spec.out / TABLE, "slices": spec.out / SLICES}
    return ScanReport(report, outputs, measured["volumes"])


def _write(kind: str, volume: Volume, path: Path, model: str, spec: ScanSpec) -> None:
    if kind == "nifti":
        write_nifti(volume, path)
    else:
        write_segmentation(volume, path, model, identified=spec.identified)


def _root(stack: Stack) -> Path:
    """The folder that all files lie in."""
    folders = {one.file.parent for one in stack.slices}
    root = folders.pop()
    while not all(folder.is_relative_to(root) for folder in folders):
        root = root.parent
    return root
