"""``tileseg train``: parse, call, report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from tileseg.cli.interrupt import stop_on_interrupt
from tileseg.cli.option import option

if TYPE_CHECKING:
    from tileseg.train.checkpoint import Progress
    from tileseg.train.spec import TrainSpec
    from tileseg.train.trainer import TrainReport
    from tileseg.train.validation import Score

_DATA, _NETWORK, _LENGTH = "Data", "Network", "Length"
_LOSS, _LEARNING, _CONTROL = "Loss", "Learning", "Control"
_PLAIN_SECONDS = 10.0
"""Between two plain lines where there is no terminal."""


def command(  # noqa: PLR0913 - one parameter per option of the command
    dataset: Annotated[
        Path | None, typer.Argument(help="TOML that lists scenes and labels.", show_default=False)
    ] = None,
    out: Annotated[Path | None, option(_CONTROL, "Model folder to make.", "--out", "-o")] = None,
    name: Annotated[str | None, option(_CONTROL, "Of the model; default the folder's name.")] = None,
    network: Annotated[
        str | None,
        option(_NETWORK, "Options, such as width=0.25,batch_norm=true,encoder=mobile.", metavar="NAME=VALUE,..."),
    ] = None,
    encoder_weights: Annotated[
        str | None, option(_NETWORK, "What the VGG16 encoder starts from.", metavar="imagenet|FILE")
    ] = None,
    init: Annotated[Path | None, option(_NETWORK, "Model folder whose weights the network starts from.")] = None,
    gsd: Annotated[
        str | None, option(_DATA, "Metres per pixel to resample to; default the dataset's.", metavar="native|METRES")
    ] = None,
    crop: Annotated[int | None, option(_DATA, "Side of a patch in pixels; default 256.")] = None,
    batch: Annotated[int | None, option(_DATA, "Patches per step; default 8.")] = None,
    balance: Annotated[
        float | None, option(_DATA, "Share of patches drawn where rare classes are; default 0.5.")
    ] = None,
    scaling: Annotated[
        str | None, option(_DATA, "How values become the network's input.", metavar="dataset|unit")
    ] = None,
    value_window: Annotated[
        str | None, option(_DATA, "Values that matter, as in radiology; others are clipped.", metavar="CENTRE,WIDTH")
    ] = None,
    augment: Annotated[
        str | None,
        option(_DATA, "Strengths, such as hue=0.1,cutmix=0.3,elastic=0; or none.", metavar="none|NAME=VALUE,..."),
    ] = None,
    threads: Annotated[int | None, option(_DATA, "Threads that read and augment ahead; default 2.")] = None,
    steps: Annotated[int | None, option(_LENGTH, "Steps in all; default 2000.")] = None,
    minutes: Annotated[
        float | None, option(_LENGTH, "Wall-clock limit; schedules follow it (then not exactly repeatable).")
    ] = None,
    steps_per_epoch: Annotated[
        int | None, option(_LENGTH, "Steps between two validations and checkpoints; default 100.")
    ] = None,
    validation_share: Annotated[
        float | None, option(_LENGTH, "Work of validating over that of training, at most; default 0.05.")
    ] = None,
    patience: Annotated[int | None, option(_LENGTH, "Stop after so many validations without a better one.")] = None,
    loss: Annotated[
        str | None, option(_LOSS, "Sum of ce, dice, focal, tversky, boundary; default ce+dice.", metavar="SUM")
    ] = None,
    class_weights: Annotated[
        str | None, option(_LOSS, "One weight per class in cross-entropy.", metavar="balanced|LIST")
    ] = None,
    label_smoothing: Annotated[float | None, option(_LOSS, "Of cross-entropy; default 0.")] = None,
    focal_alpha: Annotated[float | None, option(_LOSS, "Weight of the foreground in the focal loss.")] = None,
    focal_gamma: Annotated[float | None, option(_LOSS, "Of the focal loss; default 2.")] = None,
    tversky_beta: Annotated[float | None, option(_LOSS, "Weight of false negatives; default 0.7.")] = None,
    optimizer: Annotated[str | None, option(_LEARNING, "adamw (default) or adam.", metavar="adamw|adam")] = None,
    rate: Annotated[float | None, option(_LEARNING, "Highest learning rate; default 0.001.")] = None,
    encoder_rate: Annotated[float | None, option(_LEARNING, "Rate of the encoder, as a share; default 1.")] = None,
    schedule: Annotated[
        str | None, option(_LEARNING, "cosine (default), plateau, step, constant.", metavar="NAME")
    ] = None,
    warmup: Annotated[
        int | None, option(_LEARNING, "Steps over which the rate rises; default 50, at most a tenth of all.")
    ] = None,
    step_epochs: Annotated[int | None, option(_LEARNING, "Epochs between falls of 'step'; default 10.")] = None,
    plateau_epochs: Annotated[
        int | None, option(_LEARNING, "Validations without a better one before 'plateau' falls; default 3.")
    ] = None,
    fall: Annotated[float | None, option(_LEARNING, "What a fall leaves of the rate; default 0.3.")] = None,
    weight_decay: Annotated[float | None, option(_LEARNING, "Of kernels, decoupled; default 0.01.")] = None,
    clip: Annotated[float | None, option(_LEARNING, "Largest norm of all gradients; default 1.")] = None,
    accumulate: Annotated[int | None, option(_LEARNING, "Batches per update; default 1.")] = None,
    ema: Annotated[
        float | None, option(_LEARNING, "Decay of the weights' running mean, which is then saved; default 0: none.")
    ] = None,
    unfreeze: Annotated[
        int | None, option(_LEARNING, "Epochs between two encoder blocks that begin to learn; default 0: all learn.")
    ] = None,
    precision: Annotated[
        str | None, option(_LEARNING, "Of the layers; default float32.", metavar="float32|bfloat16|float16")
    ] = None,
    seed: Annotated[int | None, option(_CONTROL, "Of everything random; default 1.")] = None,
    panel_every: Annotated[int | None, option(_CONTROL, "Validations between panels of examples; default 5.")] = None,
    config: Annotated[
        Path | None, option(_CONTROL, "Options from a TOML file; the command line wins.", metavar="FILE.toml")
    ] = None,
    overwrite: Annotated[bool | None, option(_CONTROL, "Start anew in the folder.", "--overwrite")] = None,
    as_json: Annotated[bool, option(_CONTROL, "Print the report as JSON.", "--json")] = False,
    quiet: Annotated[bool, option(_CONTROL, "Print errors only.", "--quiet", "-q")] = False,
    verbose: Annotated[bool, option(_CONTROL, "Print tracebacks.", "--verbose", "-v")] = False,
) -> None:
    """Train a network on DATASET and write a model folder. The same command goes on with a training that stopped."""
    del verbose  # read by main
    given = {
        "dataset": dataset, "out": out, "name": name, "network": network, "encoder_weights": encoder_weights,
        "init": init, "gsd": gsd, "crop": crop, "batch": batch, "balance": balance, "scaling": scaling,
        "value_window": value_window, "augment": augment, "threads": threads, "steps": steps, "minutes": minutes,
        "steps_per_epoch": steps_per_epoch, "validation_share": validation_share, "patience": patience, "loss": loss,
        "class_weights": class_weights, "label_smoothing": label_smoothing, "focal_alpha": focal_alpha,
        "focal_gamma": focal_gamma, "tversky_beta": tversky_beta, "optimizer": optimizer, "rate": rate,
        "encoder_rate": encoder_rate, "schedule": schedule, "warmup": warmup, "step_epochs": step_epochs,
        "plateau_epochs": plateau_epochs, "fall": fall, "weight_decay": weight_decay, "clip": clip,
        "accumulate": accumulate, "ema": ema, "unfreeze": unfreeze, "precision": precision, "seed": seed,
        "panel_every": panel_every, "overwrite": overwrite,
    }  # fmt: skip
    from tileseg.errors import UsageError
    from tileseg.spec import read_config
    from tileseg.train.spec import TrainSpec

    options = {**(read_config(config) if config else {}), **{k: v for k, v in given.items() if v is not None}}
    for needed, said in (("dataset", "tileseg train DATASET.toml --out FOLDER"), ("out", "--out FOLDER")):
        if needed not in options:
            raise UsageError(f"which {needed}? {said}, or {needed} = ... in --config")
    spec = TrainSpec.parse(options)
    from tileseg.train.trainer import train

    ending, kept = "saving the state and the best model", "the last saved state is kept"
    with TrainingProgress(quiet=quiet or as_json) as progress, stop_on_interrupt(progress, ending, kept) as stop:
        report = train(spec, progress, stop)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    elif not quiet:
        _print(report)


class TrainingProgress:
    """A :class:`tileseg.train.trainer.Listener` on standard error: one live line, or a plain one now and then."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Any = None
        self._task: Any = None
        self._loss: float | None = None
        self._told = self._began = time.monotonic()
        self._first = 0.0
        self._pixels = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        from rich.text import Text

        self._console.print(Text(f"note: {text}", style="yellow"))

    def start(self, spec: TrainSpec, about: str, progress: Progress) -> None:
        """Begin to show steps."""
        resumed = f"; going on after step {progress.step}" if progress.step else ""
        self._console.print(f"{spec.dataset}: {about}{resumed}")
        self._pixels = spec.batch * spec.crop**2
        if not self._console.is_terminal:
            return
        from rich import progress as bars

        self._bar = bars.Progress(
            bars.SpinnerColumn(),
            bars.BarColumn(bar_width=24),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.description}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("step 1 ...", total=1.0)
        self._bar.start()

    def step(self, progress: Progress, share: float, loss: float, rate: float) -> None:
        """A step was taken."""
        now = time.monotonic()
        if self._loss is None:
            self._loss, self._began, self._first, self._steps = loss, now, share, progress.step
        # What the eye can follow: the mean of about the last 25 steps.
        self._loss += (loss - self._loss) / 25
        if self._bar is None and now - self._told < _PLAIN_SECONDS and share < 1:
            return
        self._told = now
        spent, gone = now - self._began, share - self._first
        left = f", {_span(spent * (1 - share) / gone)} left" if gone > 0 else ""
        speed = (progress.step - self._steps) * self._pixels / 1e6 / max(spent, 1e-9)
        best = f", best {progress.best_score:.3f}" if progress.best_score >= 0 else ""
        waited = 100 * progress.waited / max(progress.seconds, 1e-9)
        text = (
            f"step {progress.step}, loss {self._loss:.4f}, rate {rate:.2g}{best}, {speed:.2f} MPix/s, "
            f"{waited:.0f} % waiting{left}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=text)
        else:
            self._console.print(f"{100 * share:3.0f} %: {text}")

    def validation(self, progress: Progress, score: Score, *, best: bool) -> None:
        """The network was validated."""
        each = ", ".join(f"{name} {value:.3f}" for name, value in score.iou.items())
        self._console.print(f"step {progress.step}: IoU {each}{' (best)' if best else ''}")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _print(report: TrainReport) -> None:
    from rich.console import Console
    from rich.table import Table

    progress = report.progress
    if report.already:
        typer.echo(f"{report.out}: finished already, {progress.step} steps (--overwrite starts anew)")
        return
    table = Table(title=str(report.out), show_header=False, title_justify="left")
    seconds = max(progress.seconds, 1e-9)
    rows = {
        "trained": f"{progress.step} steps in {_span(progress.seconds)}; best after step {progress.best_step}",
        "time": f"{100 * progress.waited / seconds:.1f} % waiting for patches, "
        f"{100 * progress.validating / seconds:.1f} % validating",
    }
    if report.score is not None:
        rows |= {f"IoU {name}": f"{value:.4f}" for name, value in report.score.iou.items()}
        rows["mean IoU"] = f"{report.score.mean_iou:.4f}"
    for what, told in rows.items():
        table.add_row(what, told)
    Console(highlight=False).print(table)
    typer.echo(f"try it: tileseg run SCENE --model {report.out}")
