"""Several pairs at once, from a table: place by place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn import metrics
from typer.testing import CliRunner

from tileseg.cli.main import app
from tileseg.errors import InputError, TilesegError, UsageError
from tileseg.evaluate.pairs import LabelPair, read_pairs

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def _write(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=labels.shape[0], width=labels.shape[1], count=1, dtype="uint8"
    ) as file:
        file.write(labels, 1)
    return path


def _labels(seed: int) -> np.ndarray:
    return np.kron(np.random.default_rng(seed).integers(0, 2, (5, 7)), np.ones((9, 9))).astype(np.uint8)


def _run(*arguments: str | Path) -> str:
    answer = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "120"})
    if isinstance(answer.exception, TilesegError):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_a_table_of_pairs_is_scored_place_by_place(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    lines = ["prediction, truth, place, drawn"]
    seeds = {"a": (1, 2, "hill", ""), "b": (3, 4, "hill", "no"), "c": (5, 6, "coast", ""), "d": (7, 7, "", "true")}
    for name, (truth, guess, place, drawn) in seeds.items():
        _write(tmp_path / name / "truth.tif", _labels(truth))
        _write(tmp_path / name / "map.tif", _labels(guess))
        lines.append(f"{name}/map.tif, {name}/truth.tif, {place}, {drawn}")
    table.write_text("\ufeff" + "\n".join(lines) + "\n")
    said = _run("--pairs", table, "--out", tmp_path / "out", "--classes", "ground,roof")
    for name in ("hill", "coast", "mean of 2 places", "map.tif (4)", "mean of 1 drawn place"):
        assert name in said
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [scene["name"] for scene in facts["scenes"]] == ["map.tif", "map.tif (2)", "map.tif (3)", "map.tif (4)"]
    hill = metrics.jaccard_score(*(np.concatenate([_labels(i).ravel(), _labels(i + 2).ravel()]) for i in (1, 2)))
    coast = metrics.jaccard_score(_labels(5).ravel(), _labels(6).ravel())
    assert facts["mean_over_places"]["real"]["by_class"]["roof"]["iou"] == pytest.approx((hill + coast) / 2, abs=1e-6)
    assert facts["mean_over_places"]["drawn"]["by_class"]["roof"]["iou"] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column 'prediction'"),
        ("prediction,truth\n", "lists no pairs"),
        ("prediction,place\na,b\n", "has no column 'truth'"),
        ("prediction,truth,where\na,b,c\n", "has a column 'where'"),
        ("prediction,truth\na,\n", "line 2: expected a prediction and its truth"),
        ("prediction,truth,drawn\na,b,maybe\n", "line 2: expected"),
        ("prediction,truth\na,b,c\n", "line 2: expected"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / "pairs.csv")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_are_those_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("truth,prediction\nt.tif,/runs/p.tileseg\n")
    assert read_pairs(tmp_path / "pairs.csv") == (LabelPair(Path("/runs/p.tileseg"), tmp_path / "t.tif"),)
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_pairs(tmp_path / "none.csv")


def test_pairs_of_other_classes_are_not_pooled(tmp_path: Path) -> None:
    for name, top in (("two", 1), ("three", 2)):
        _write(tmp_path / name / "p.tif", _labels(1) * np.uint8(top))
        labels = _labels(2)
        labels[:3, :4] = top
        _write(tmp_path / name / "t.tif", labels)
    (tmp_path / "pairs.csv").write_text("prediction,truth\ntwo/p.tif,two/t.tif\nthree/p.tif,three/t.tif\n")
    with pytest.raises(InputError, match=r"three/p\.tif: is compared by the classes 0, 1, 2, .*two/p\.tif by"):
        _run("--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "out")


def test_what_pairs_are_not_compared_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="what is evaluated"):
        _run("--pairs", "p.csv", "--model", "embedded")
    with pytest.raises(UsageError, match="for one pair"):
        _run("--pairs", "p.csv", "--pixel", "1")
    with pytest.raises(UsageError, match="--pairs compares files"):
        _run("--pairs", "p.csv", "data.toml")
