"""Trainings without some of the places, one after the other, and their table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from drawn import write_dataset
from typer.testing import CliRunner

from tileseg.cli.main import app
from tileseg.dataset.dataset import load_dataset
from tileseg.errors import InputError, UsageError
from tileseg.nn.folder import load_card
from tileseg.train.folds import TABLE, Fold, Folds, read_folds, train_folds
from tileseg.train.journal import STEPS, read_columns
from tileseg.train.spec import TrainSpec
from tileseg.train.trainer import train

BUILDINGS = Path(__file__).parents[2] / "workflows" / "buildings"
TINY = {
    "network": {"width": 0.02, "encoder": "unet", "batch_norm": False, "decoder_convs": 1},
    "crop": 32, "batch": 2, "steps": 2, "steps_per_epoch": 2, "threads": 1, "panel_every": 0,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("shallow", "unfused")


class Silent:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.steps = 0

    def notice(self, text) -> None:
        self.notices.append(text)

    def start(self, spec, about, progress) -> None:
        pass

    def step(self, progress, share, loss, rate) -> None:
        self.steps += 1

    def validation(self, progress, score, *, best) -> None:
        pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = write_dataset(tmp_path_factory.mktemp("drawn"), train=3, validate=1, height=60, width=75)
    path.write_text(path.read_text() + 'place_from = "([a-z][0-9])"\n')
    return path


def spec_of(dataset: Path, out: Path, **options) -> TrainSpec:
    return TrainSpec.parse({"dataset": dataset, "out": out, **TINY, **options})


@pytest.mark.slow
def test_each_fold_is_a_training_without_its_places_and_finished_ones_are_kept(dataset, tmp_path) -> None:
    out, listener = tmp_path / "folds", Silent()
    folds = Folds(folds=[Fold(name="a", leave_out=["t0", "v0"]), Fold(name="b", leave_out=["t2"])])
    report = train_folds(spec_of(dataset, out), folds, listener)
    assert listener.steps == 4
    assert any("fold 2 of 2, b: leaves out t2" in text for text in listener.notices)
    assert sorted((row.fold, row.place) for row in report.rows) == [("a", "t0"), ("a", "v0"), ("b", "t2")]
    for row in report.rows:
        facts = load_card(out / row.fold).training
        assert row.iou == facts["iou_by_place"][row.place]
    # The second is what a training of its own gives, as if nothing had been before it.
    alone = spec_of(dataset, tmp_path / "alone", leave_out="t2")
    train(alone, Silent())
    losses = [read_columns(folder / "training" / STEPS, "loss")[0] for folder in (out / "b", alone.out)]
    assert losses[0] == losses[1]
    with (out / TABLE).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["fold"], row["place"]) for row in table] == [(row.fold, row.place) for row in report.rows]
    assert report.mean["ground"] == pytest.approx(sum(float(row["iou_ground"]) for row in table) / 3, abs=1e-4)
    again = Silent()
    assert train_folds(spec_of(dataset, out), folds, again).rows == report.rows
    assert again.steps == 0


def test_a_place_that_is_not_there_is_told_before_the_first_step(dataset, tmp_path) -> None:
    folds = Folds(folds=[Fold(name="a", leave_out=["t0"]), Fold(name="b", leave_out=["nowhere"])])
    with pytest.raises(UsageError, match="--leave-out nowhere: no such place"):
        train_folds(spec_of(dataset, tmp_path / "out"), folds, Silent())
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="cannot be given with --leave-out"):
        train_folds(spec_of(dataset, tmp_path / "out", leave_out="t0"), folds, Silent())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "folds: is missing"),
        ("[[folds]]\nname = 'a'\nleave_out = []", "folds.0.leave_out"),
        ("[[folds]]\nname = '../a'\nleave_out = ['x']", "folds.0.name"),
        ("[[folds]]\nname = 'a'\nleave_out = 'x'", "expected a list"),
        ("[[folds]]\nname = 'a'\nleave_out = ['x', 'x']", "two folds leave out 'x'"),
        ("[[folds]]\nname = 'a'\nleave_out = ['x']\n" * 2, "two folds are called 'a'"),
        ("folds = [", "not TOML"),
    ],
)
def test_folds_that_make_no_sense_are_refused(tmp_path, text, told) -> None:
    path = tmp_path / "folds.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_folds(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_prints_the_table(dataset, tmp_path, nothing_learnt) -> None:
    folds, config = tmp_path / "folds.toml", tmp_path / "train.toml"
    folds.write_text('[[folds]]\nname = "only"\nleave_out = ["t1"]\n')
    config.write_text(
        'network = "width=0.02,encoder=unet,batch_norm=false"\ncrop = 32\nbatch = 2\nsteps = 1\nthreads = 1\n'
    )
    arguments = ["train", dataset, "--folds", folds, "--config", config, "--out", tmp_path / "out"]
    answer = CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)
    assert answer.exit_code == 0
    assert "mean of 1 place" in answer.output
    assert "t1" in answer.output


def test_the_folds_of_buildings_leave_out_each_place_once() -> None:
    folds = read_folds(BUILDINGS / "folds.toml").folds
    assert len(folds) >= 5
    assert {fold.name.split("_")[0] for fold in folds} == {"drone", "aerial", "satellite"}


@pytest.mark.real_data
def test_the_folds_of_buildings_are_about_all_places_that_there_are(real_data: Path, tmp_path: Path) -> None:
    text = (BUILDINGS / "places.toml").read_text().replace("../../../shared/data", str(real_data))
    (tmp_path / "places.toml").write_text(text)
    places = load_dataset(tmp_path / "places.toml").places
    left_out = [place for fold in read_folds(BUILDINGS / "folds.toml").folds for place in fold.leave_out]
    assert sorted(left_out) == sorted(places)
