"""``report.html``: one page with everything in it, to be sent or kept."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from tileseg.evaluate.charts import bars, confusion_chart, reliability, short_count
from tileseg.evaluate.objects import ObjectMatches
from tileseg.evaluate.pictures import CAPTIONS, CONFUSED, FALSE, MISSED, colors_over, data_uri, panels, read_part
from tileseg.evaluate.results import Evaluation, mean_of
from tileseg.evaluate.scores import Comparison, RankedWindow
from tileseg.storage.store import write_atomic

COLUMNS: dict[str, str] = {
    "iou": "IoU",
    "dice": "Dice",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "volume_error": "volume error",
    "boundary_iou": "boundary IoU",
    "hausdorff_px": "Hausdorff (px)",
    "hausdorff95_px": "95 % (px)",
    "hausdorff_m": "Hausdorff (m)",
    "hausdorff95_m": "95 % (m)",
}
"""Score -> heading of its column."""

_METHODS = (
    (
        "Pixels that are unknown on either side do not count. Scores that nothing can be said about (of a class that "
        "neither side has) are shown as a dash and left out of means. Volume error: (predicted - true) / true pixels."
    ),
    (
        "Hausdorff distances are those between border pixels (with one of another class above, below, left or right), "
        "exact over whole scenes: the larger of both directions, and of their 95th percentiles. Distances of "
        "several scenes are pooled. Metres are those on the ground."
    ),
    "Calibration: 15 bins of equal width (Guo et al., 2017).",
)
_BAND = (
    "Boundary IoU (Cheng et al., 2021): within {width} px of the borders; the scene's edge and the edge of what is "
    "unknown are no borders."
)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22272e;background:#fff;margin:0 auto;max-width:1240px;padding:24px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 10px;border-bottom:1px solid #d0d7de}
.sub,.note{color:#57606a}.note{font-size:13px;max-width:900px}code{background:#f3f4f6;padding:1px 4px;border-radius:3px}
.cards{display:flex;flex-wrap:wrap;gap:14px;margin:18px 0}.card{border:1px solid #d0d7de;border-radius:8px;
padding:10px 18px;min-width:110px}.card b{display:block;font-size:24px}.card span{color:#57606a;font-size:13px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;border-bottom:1px solid #e5e8eb;text-align:right}th:first-child,td:first-child{text-align:left}
th{font-weight:600;background:#f6f8fa}tr.mean td{font-weight:600}.wide{overflow-x:auto}
i.key{display:inline-block;width:11px;height:11px;margin-right:6px;border:1px solid #0003}
i.line{width:9px;height:9px;border:2px solid;background:#46484c;outline:1px solid #46484c}
.charts{display:flex;flex-wrap:wrap;gap:28px;align-items:flex-start}
.warn{background:#fff8e5;border-left:4px solid #e0a030;padding:6px 12px;margin:6px 0;font-size:14px}
.window{margin:0 0 18px}.window p{margin:0 0 4px;font-size:13px}.strip{display:flex;gap:6px;flex-wrap:wrap}
figure{margin:0}figure img{display:block;width:288px;image-rendering:auto}figcaption{font-size:12px;color:#57606a}
svg text{font-family:system-ui,sans-serif;fill:#22272e}svg .name{font-size:13px;font-weight:600}
svg .small{font-size:11px;fill:#57606a}svg .tiny{font-size:10px;fill:#57606a}svg .value{font-size:12px}
svg .cell{font-size:13px;font-weight:600}
"""


def write_report(path: Path, found: Evaluation, pairs: Mapping[str, Comparison]) -> None:
    """Write the page. ``pairs``: every scene by its name, from which the windows' pictures are read.

    Raises InputError where a scene cannot be read any more.
    """
    sections = [
        _head(found),
        _class_table(found),
        _charts(found),
        _calibration(found),
        _polygons(found),
        _places(found),
        _scenes(found),
        _windows("Worst windows", found.total.worst, found, pairs),
        _windows("Best windows", found.total.best, found, pairs),
        _methods(found),
    ]
    title = escape(" against ".join(found.subject.values()))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{_STYLE}</style></head><body>'
        + "".join(sections)
        + "</body></html>\n"
    )
    write_atomic(path, page)


def _head(found: Evaluation) -> str:
    scores = found.to_json()
    compared = " · ".join(f"{escape(name)} <code>{escape(value)}</code>" for name, value in found.subject.items())
    count = len(found.scenes)
    cards = [
        ("mean IoU", scores["mean"]["iou"]),
        ("mean IoU without background", scores["mean_without_background"]["iou"]),
        ("mean Dice", scores["mean"]["dice"]),
        ("boundary IoU without background", scores["mean_without_background"]["boundary_iou"]),
        ("pixels that are right", scores["accuracy"]),
    ]
    if scores["calibration"] is not None:
        cards.append(("calibration error (ECE)", scores["calibration"]["expected_calibration_error"]))
    shown = "".join(f"<div class=card><b>{_number(value)}</b><span>{name}</span></div>" for name, value in cards)
    notes = "".join(f"<div class=warn>{escape(text)}</div>" for text in found.notices)
    pixels = scores["pixels"]
    left_out = f"; {short_count(pixels['without_truth'])} have no true class" if pixels["without_truth"] else ""
    if pixels["without_prediction"]:
        left_out += f"; {short_count(pixels['without_prediction'])} have a true class and no predicted one"
    return (
        f"<h1>Evaluation</h1><div class=sub>{compared}</div><div class=sub>{count} scene{'s' * (count != 1)}, "
        f"{short_count(pixels['compared'])} pixels compared{left_out}</div><div class=cards>{shown}</div>{notes}"
    )


def _class_table(found: Evaluation) -> str:
    table = found.by_class()
    names = [name for name in COLUMNS if name in table]
    rows = []
    for i, info in enumerate(found.classes):
        key = f'<i class=key style="background:{info.color}"></i>{escape(info.name)}'
        rows.append([key, *(_number(float(table[name][i]), name) for name in names)])
    means = found.means()
    rows.append(["mean", *(_number(means[name], name) for name in names)])
    if len(found.foreground) < len(found.classes):
        without = found.means(background=False)
        rows.append(["mean without background", *(_number(without[name], name) for name in names)])
    return "<h2>Classes</h2>" + _table(
        ["class", *(COLUMNS[name] for name in names)], rows, means=len(rows) - len(found.classes)
    )


def _charts(found: Evaluation) -> str:
    table = found.by_class()
    series = {"IoU": table["iou"], "boundary IoU": table["boundary_iou"]}
    return (
        f'<h2>Overlap and confusion</h2><div class="charts wide">{bars(found.classes, series)}'
        f"{confusion_chart(found.classes, found.total.matrix)}</div>"
    )


def _calibration(found: Evaluation) -> str:
    calibration = found.total.calibration
    if calibration is None:
        return ""
    charts = [reliability(calibration, 0, "predicted class", "#22272e")]
    charts += [reliability(calibration, 1 + i, found.classes[i].name, found.classes[i].color) for i in found.foreground]
    return (
        f"<h2>Calibration</h2><p class=note>On the dashed line, probabilities mean what they say. Below it the model "
        f"is too sure of itself, above it not sure enough.</p><div class=charts>{''.join(charts)}</div>"
    )


def _polygons(found: Evaluation) -> str:
    matchings = found.total.matchings
    if not matchings:
        return ""
    rows = []
    for label, matching in matchings.items():
        rows.append(
            [
                escape(found.classes[label].name),
                f"{matching.truths:,}",
                f"{matching.predictions:,}",
                f"{len(matching.matched):,}",
                *(_number(value) for value in (*matching.scores(), *matching.mean_scores)),
                _number(matching.mean_iou),
                _number(matching.mean_iou_of_matches),
                f"{matching.split:,}",
                f"{matching.merged:,} ({matching.in_merged:,} true)",
                *(
                    f"{_number(predicted, name)} ({_number(true, name)})"
                    for name, (predicted, true) in _outlines(matching).items()
                ),
            ]
        )
    heads = ["class", "true", "predicted", "matched", "precision", "recall", "F1"]
    heads += ["precision 0.5 to 0.95", "recall 0.5 to 0.95", "F1 0.5 to 0.95", "mean IoU", "of matches"]
    heads += ["split", "merged", "vertices (true)", "right angles (true)"]
    return (
        "<h2>Polygons</h2>"
        + _table(heads, rows)
        + "<p class=note>Matched at an IoU of 0.5 or more, the best pairs first, each polygon once; then the mean over "
        "thresholds from 0.5 to 0.95 in steps of 0.05. Mean IoU: of each true polygon with the predicted one that fits "
        "it best, missed ones as 0. Split: true ones that are several predicted ones; merged: predicted ones that are "
        "several true ones. Vertices: of the middle polygon; right angles: share of the corners within 10 degrees of "
        "one.</p>"
    )


def _outlines(found: ObjectMatches) -> dict[str, tuple[float, float]]:
    """What is said of outlines: of predicted ones, and of true ones."""
    predicted, true = found.predicted_outlines, found.true_outlines
    return {
        "vertices": (predicted.median_vertices, true.median_vertices),
        "right angles": (predicted.share_right, true.share_right),
    }


PLACE_COLUMNS: dict[str, str] = {
    "iou": "IoU",
    "boundary_iou": "boundary IoU",
    "f1_at_iou_0.5": "objects F1",
    "mean_iou_of_matches": "of matches",
    "split_share": "split",
    "merged_share": "merged",
}
"""Score of a place -> heading of its column."""


def place_rows(found: Evaluation) -> list[tuple[str, dict[str, float]]]:
    """A row of scores for each place, those of a kind one after the other, and after each kind their mean."""
    rows: list[tuple[str, dict[str, float]]] = []
    for kind, places in found.places_by_kind.items():
        summaries = [found.summary(place) for place in places]
        rows += [(place.name, summary) for place, summary in zip(places, summaries, strict=True)]
        what = "drawn places" if kind == "drawn" else "places"
        rows.append((f"mean of {len(places)} {what if len(places) > 1 else what[:-1]}", mean_of(summaries)))
    return rows


def _places(found: Evaluation) -> str:
    if len(found.places) < 2:
        return ""
    table = place_rows(found)
    names = [name for name in PLACE_COLUMNS if name in table[0][1]]
    rows = [[escape(place), *(_number(scores[name], name) for name in names)] for place, scores in table]
    note = (
        "<p class=note>Each place counts alike in the mean, however large it is; means over the classes that are no "
        "background. Split, merged: shares of the true polygons.</p>"
    )
    return "<h2>Places</h2>" + _table(["place", *(PLACE_COLUMNS[name] for name in names)], rows) + note


def _scenes(found: Evaluation) -> str:
    if len(found.scenes) < 2:
        return ""
    rows = []
    for scene in found.scenes:
        table = found.by_class(scene)
        means = found.means(scene)
        rows.append(
            [
                escape(scene.name),
                short_count(int(scene.matrix.sum())),
                _number(means["iou"]),
                *(_number(float(table["iou"][i])) for i in range(len(found.classes))),
                _number(found.means(scene, background=False)["boundary_iou"]),
            ]
        )
    heads = ["scene", "pixels", "mean IoU", *(f"IoU {escape(info.name)}" for info in found.classes), "boundary IoU"]
    return "<h2>Scenes</h2>" + _table(heads, rows)


def _windows(title: str, ranked: Sequence[RankedWindow], found: Evaluation, pairs: Mapping[str, Comparison]) -> str:
    if not ranked:
        return ""
    parts = [f"<h2>{title}</h2>"]
    keys = ((MISSED, "missed"), (FALSE, "false alarm"), (CONFUSED, "another class"))
    shown = [read_part(pairs[window.scene], window.window, found.classes) for window in ranked]
    colors = colors_over(shown, found.classes)
    legend = [
        f'<i class="key line" style="border-color:#{bytes(colors[i]).hex()}"></i>{escape(info.name)}'
        for i, info in enumerate(found.classes)
        if not info.background
    ]
    legend += [f'<i class=key style="background:{color}"></i>{escape(name)}' for color, name in keys]
    parts.append(f"<p class=note>{' &nbsp; '.join(legend)}</p>")
    for window, part in zip(ranked, shown, strict=True):
        pictures = panels(part, found.classes, colors)
        figures = "".join(
            f'<figure><img alt="{caption}" src="{data_uri(picture)}"><figcaption>{caption}</figcaption></figure>'
            for caption, picture in zip(CAPTIONS, pictures, strict=True)
        )
        wrong = window.wrong / window.window.pixels
        parts.append(
            f"<div class=window><p>{escape(window.scene)}, {window.window}: IoU {_number(window.iou)}, "
            f"{wrong:.1%} of the pixels wrong</p><div class=strip>{figures}</div></div>"
        )
    return "".join(parts)


def _methods(found: Evaluation) -> str:
    width = found.total.band_width
    texts = (*_METHODS[:1], _BAND.format(width=width), *_METHODS[1:])
    version = importlib.metadata.version("tileseg")
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = "".join(f"<p class=note>{escape(text)}</p>" for text in texts)
    return f"<h2>How it was measured</h2>{lines}<p class=note>tileseg {escape(version)}, {written}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], means: int = 0) -> str:
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = []
    for i, row in enumerate(rows):
        kind = " class=mean" if i >= len(rows) - means else ""
        body.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return f"<div class=wide><table><tr>{top}</tr>{''.join(body)}</table></div>"


def _number(value: float | None, name: str = "") -> str:
    return "&ndash;" if value is None or math.isnan(value) else shown(value, name)


def shown(value: float, name: str = "") -> str:
    """A score as tables have it: shares with 3 decimals, distances with 1 or 2, volume errors with a sign."""
    if name.endswith("_px"):
        return f"{value:.1f}"
    if name.endswith("_m"):
        return f"{value:.2f}"
    if name == "vertices":
        return f"{value:g}"
    return f"{value:+.3f}" if name == "volume_error" else f"{value:.3f}"
