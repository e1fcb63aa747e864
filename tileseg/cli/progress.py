"""How a run shows itself: one live line on a terminal, plain lines elsewhere, tables at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tileseg.cli.line import span, visible
from tileseg.cli.live import PLAIN_SECONDS, LiveView
from tileseg.cluster import hardware
from tileseg.run.ledger import BlockRecord

if TYPE_CHECKING:
    from tileseg.run.pace import Estimate
    from tileseg.run.prepare import PreparedRun
    from tileseg.run.report import RunReport


class RunProgress(LiveView):
    """A :class:`tileseg.run.report.Listener` on standard error."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        super().__init__(quiet=quiet)
        self._verbose = verbose
        self._pixels = self._total_pixels = self._blocks = self._done = 0
        self._began = self._printed = time.monotonic()

    def start(self, prepared: PreparedRun, done: int) -> None:
        """Begin to show blocks."""
        plan = prepared.plan
        self._blocks, self._done = plan.blocks, done
        self._total_pixels = plan.scene[0] * plan.scene[1]
        self._began = self._printed = time.monotonic()
        resumed = f", {done} of them done before" if done else ""
        self.console.print(
            visible(
                f"{prepared.spec.scene}: {plan.scene[1]} x {plan.scene[0]} pixels, {_count(plan.blocks, 'block')}"
                f"{_in_area(prepared.wanted[0], prepared)}{resumed}, "
                f"{_count(len(plan.views), 'view')}, model {prepared.spec.model}"
            )
        )
        choice = prepared.sizing.choice
        self.console.print(visible(f"engine {plan.engine} ({plan.form}, {plan.precision}): {choice.why}"))
        self.show(
            bars.TextColumn("{task.completed}/{task.total} blocks"),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[memory]}"),
            bars.TextColumn("{task.description}"),
            total=plan.blocks,
            completed=done,
            rate="",
            memory="",
        )

    def block(self, record: BlockRecord, pixels: int) -> None:
        """A block is finished."""
        self._pixels += pixels
        self._done += 1
        elapsed = time.monotonic() - self._began
        rate = f"{self._pixels / 1e6 / max(elapsed, 1e-9):.2f} MPix/s"
        if self._verbose:
            stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in record.seconds.items())
            self.console.print(f"block {record.index}: {record.valid} valid pixels; seconds: {stages}")
        if self.is_live:
            self.update(completed=self._done, rate=rate, memory=_gib(hardware.resident_bytes()))
        elif time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._printed = time.monotonic()
            left = elapsed * (self._blocks - self._done) / max(1, self._done)
            self.console.print(
                f"{self._done}/{self._blocks} blocks, {rate}, {left:.0f} s left, {_gib(hardware.resident_bytes())}"
            )

    def stage(self, name: str) -> None:
        """What is done once all blocks are."""
        self.update(description=name)
        if self._verbose and not self.is_live:
            self.console.print(name)


def print_plan(prepared: PreparedRun, expected: Estimate | None, price: float | None, watts: float | None) -> None:
    """The plan as a table on standard output; ``price``: of an hour."""
    from tileseg.run.report import describe

    facts = describe(prepared)
    table = Table(title=Text(f"Plan for {prepared.spec.scene}"), show_header=False, title_justify="left")
    exact = "exact: equals the network run once over the whole scene"
    rows = {
        "scene": f"{facts['width']} x {facts['height']} pixels, {prepared.scene.dtype}, bands {prepared.scene.bands}",
        "model": prepared.spec.model,
        "engine": f"{facts['engine']} ({facts['form']}, {facts['precision']}): {facts['chosen']}",
        "ground": _ground(facts),
        "blocks": f"{facts['blocks']} of {_by(facts['block'])}{_in_area(facts['blocks_in_area'], prepared)}",
        "windows": f"{facts['windows']} of " + ", ".join(_by(w) for w in facts["window"]) + f", batch {facts['batch']}",
        "core": _by(facts["core"]),
        "halo": ", ".join(f"{h} px at scale {s}" for h, s in zip(facts["halo"], prepared.plan.scales, strict=True)),
        "views": f"{facts['views']} ({', '.join(str(s) for s in prepared.plan.scales)}; flips {prepared.plan.flips})",
        "stitching": exact if facts["exact"] else f"{facts['stitch']}: approximate",
        "redundancy": f"{facts['redundancy']:.2f} (pixels that the network sees per pixel of a view)",
        "work": f"{facts['gflop'] / 1e3:.2f} TFLOP",
        "memory": f"{_gib(facts['memory_bytes'])} projected peak ({_processes(facts)}), "
        f"{_gib(facts['max_memory_bytes'])} allowed",
        "disk": f"{_gib(facts['disk_bytes'])} before compression" + _free(facts["disk_free_bytes"]),
        "time": _expected(expected),
        **_costs(expected, price, watts),
        "output": facts["output"],
    }
    for name, text in rows.items():
        table.add_row(name, text)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    for notice in prepared.notices:
        console.print(Text(f"note: {notice}", style="yellow"))


def _expected(expected: Estimate | None) -> str:
    if expected is None:
        return "not known yet: no run of this kind has ended on this machine"
    times = [span(seconds) for seconds in (expected.seconds, expected.low, expected.high)]
    runs = f"the last {expected.runs} runs" if expected.runs > 1 else "the last run"
    return f"about {times[0]} ({times[1]} to {times[2]}), by {runs} of this kind on this machine"


def _costs(expected: Estimate | None, price: float | None, watts: float | None) -> dict[str, str]:
    if expected is None:
        return {}
    hours = [seconds / 3600 for seconds in (expected.seconds, expected.low, expected.high)]
    rows = {}
    if price is not None:
        about, low, high = (f"{price * each:.3g}" for each in hours)
        rows["price"] = f"about {about} ({low} to {high}), at {price:g} per hour"
    if watts is not None:
        about, low, high = (f"{watts * each / 1000:.3g}" for each in hours)
        rows["energy"] = f"about {about} kWh ({low} to {high}), at {watts:g} W"
    return rows


def print_report(report: RunReport, *, verbose: bool = False) -> None:
    """What was found and where it is, then how it went; with ``verbose`` the seconds of each stage too."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)  # paths are copied from here
    found = ", ".join(f"{count} {name}" for name, count in report.polygons.items()) or "none"
    console.print(Text(f"{report.folder}: {_outcome(report)}"))
    console.print(Text(f"polygons: {found}"))
    width = max(len(name) for name in report.outputs)
    for name, path in report.outputs.items():
        console.print(Text(f"  {name:<{width}}  {path}"))
    if report.finished_before:
        return
    if not report.only_polygons:
        console.print(
            f"{report.computed} of {_count(report.blocks, 'block')} computed now, {_empty(report.empty)}"
            f"{report.megapixels_per_second:.2f} MPix/s, peak memory {_gib(report.peak_memory)}"
        )
    if verbose:
        table = Table("stage", "seconds", title_justify="left")
        table.columns[1].justify = "right"
        for stage, spent in report.seconds.items():
            table.add_row(stage, f"{spent:.2f}")
        table.add_row("whole run (wall clock)", f"{report.wall_seconds:.2f}", style="bold")
        console.print(table)


def _outcome(report: RunReport) -> str:
    if report.finished_before:
        return "finished already, nothing to do (--overwrite starts anew)"
    if report.only_polygons:
        return f"was finished; polygons made anew from its mosaic in {report.wall_seconds:.1f} s"
    return f"done in {report.wall_seconds:.1f} s"


def _ground(facts: dict[str, Any]) -> str:
    """Metres per pixel of scene and model."""
    scene, model = (
        "not known" if metres is None else f"{metres:.3g} m" if metres < 1000 else f"{metres:.0f} m"
        for metres in (facts["ground_sample_distance"], facts["wanted_ground_sample_distance"])
    )
    seen = "not resampled" if facts["resampled_by"] == "1" else f"resampled by {facts['resampled_by']}"
    return f"pixels of the scene: {scene}, for the model: {model}; {seen}"


def _processes(facts: dict[str, Any]) -> str:
    """The memory of each."""
    if facts["workers"] == 0:
        return "one process"
    return f"{_gib(facts['memory_bytes_driver'])} + {facts['workers']} x {_gib(facts['memory_bytes_per_worker'])}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _empty(blocks: int) -> str:
    """Blocks that the network was not asked for, if there are any."""
    return f"{blocks} of all without data or outside the area, " if blocks else ""


def _in_area(blocks: int, prepared: PreparedRun) -> str:
    return "" if prepared.aoi is None else f" ({blocks} touch the area)"


def _free(size: int | None) -> str:
    return "" if size is None else f", {_gib(size)} free"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"


def _by(size: list[int]) -> str:
    return f"{size[1]}x{size[0]}"
