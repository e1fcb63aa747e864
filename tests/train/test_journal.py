"""CSV rows that follow the checkpoint, and event files that TensorFlow itself reads."""

import math

import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.util import event_pb2

from tileseg.card import ClassInfo
from tileseg.train.journal import STEPS, VALIDATIONS, Journal, read_columns
from tileseg.train.pictures import write_curves
from tileseg.train.tensorboard import EventFile

CLASSES = (ClassInfo(name="ground", color="#c8b48c", background=True), ClassInfo(name="house", color="#fff3f0"))


def events(folder) -> list:
    paths = sorted(str(path) for path in folder.glob("events.*"))
    return [event_pb2.Event.FromString(r.numpy()) for path in paths for r in tf.data.TFRecordDataset(path)]


def test_tensorflow_reads_the_events(tmp_path) -> None:
    with EventFile(tmp_path, 0) as file:
        file.scalar("loss", 0.375, 1)
        file.scalar("validation/iou_häuser", -2.5, 300)
    first, *found = events(tmp_path)
    assert first.file_version == "brain.Event:2"
    values = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in found]
    assert values == [(1, "loss", 0.375), (300, "validation/iou_häuser", -2.5)]
    assert all(e.wall_time > 1.6e9 for e in found)


def test_events_of_a_killed_run_are_made_void(tmp_path) -> None:
    with EventFile(tmp_path, 41) as file:
        file.scalar("loss", 1, 42)
    _, start, _ = events(tmp_path)
    assert (start.step, start.session_log.status) == (42, event_pb2.SessionLog.START)


def note(journal: Journal, first: int, last: int, loss: float) -> None:
    for step in range(first, last + 1):
        journal.step(step, loss=loss + step / 3, rate=1e-3, seconds=step, waited=0)


def test_rows_after_the_checkpoint_are_dropped(tmp_path) -> None:
    with Journal(tmp_path, ["ground", "house"], 0) as journal:
        note(journal, 1, 9, 100)
        journal.validation(4, score=0.5, mean_iou=0.6, iou={"ground": 0.7, "house": 0.5})
        journal.validation(8, score=0.7, mean_iou=0.6, iou={"house": 0.5})
    with (tmp_path / STEPS).open("a") as file:
        file.write("10,3.")
    with Journal(tmp_path, ["ground", "house"], 6) as journal:
        note(journal, 7, 8, 200)
    steps, losses = read_columns(tmp_path / STEPS, "step", "loss")
    assert steps == list(range(1, 9))
    assert losses == [100 + s / 3 for s in range(1, 7)] + [200 + s / 3 for s in (7, 8)]
    assert read_columns(tmp_path / VALIDATIONS, "step", "iou_ground", "iou_house") == [[4], [0.7], [0.5]]


def test_a_class_without_a_score_is_empty(tmp_path) -> None:
    with Journal(tmp_path, ["ground", "house"], 0) as journal:
        journal.validation(8, score=0.7, mean_iou=0.6, iou={"house": 0.5})
    (ground,), (house,) = read_columns(tmp_path / VALIDATIONS, "iou_ground", "iou_house")
    assert math.isnan(ground)
    assert house == 0.5


@pytest.mark.parametrize("count", [0, 1, 300])
def test_curves_are_drawn_of_any_number_of_steps(tmp_path, count) -> None:
    with Journal(tmp_path, ["ground", "house"], 0) as journal:
        note(journal, 1, count, 0.1)
        if count:
            journal.validation(count, score=0.7, mean_iou=0.6, iou={"house": 0.5})
    write_curves(tmp_path / "curves.png", tmp_path, CLASSES)
    assert (tmp_path / "curves.png").exists() == bool(count)
    if count:
        with Image.open(tmp_path / "curves.png") as page:
            assert page.size == (1240, 360)
            colors = {pixel for _, pixel in page.getcolors(1 << 20)}
            assert (31, 119, 180) in colors
