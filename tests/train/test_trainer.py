"""Whole trainings of tiny networks on drawn scenes: what comes out, what is gone on with, what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
from drawn import write_dataset
from PIL import Image

from tileseg.errors import InputError, Interrupted, LockedError, TilesegError, UsageError
from tileseg.nn.backend import keras
from tileseg.nn.bundle import load_bundle
from tileseg.nn.folder import load_card, resolve_model
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import build_network
from tileseg.run.block import fill_of
from tileseg.run.ledger import Ledger
from tileseg.train import loop
from tileseg.train.checkpoint import Store
from tileseg.train.folder import TrainingFolder
from tileseg.train.journal import STEPS, read_columns
from tileseg.train.learner import frozen_layers
from tileseg.train.prepare import like_init, load_scenes, prepare
from tileseg.train.spec import TrainSpec
from tileseg.train.trainer import TrainReport, train

TINY = {
    "network": {"width": 0.02, "encoder": "unet", "batch_norm": False, "decoder_convs": 1},
    "crop": 32,
    "batch": 2,
    "steps": 6,
    "steps_per_epoch": 3,
    "warmup": 2,
    "rate": 5e-3,
    "threads": 1,
}


pytestmark = pytest.mark.usefixtures("shallow", "unfused")


class Silent:
    """A listener that counts, and may stop the training after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop = threading.Event()
        self.stop_after = stop_after
        self.steps: list[int] = []
        self.scores: list[tuple[int, bool]] = []
        self.notices: list[str] = []

    def notice(self, text) -> None:
        self.notices.append(text)

    def start(self, spec, about, progress) -> None:
        pass

    def step(self, progress, share, loss, rate) -> None:
        self.steps.append(progress.step)
        if progress.step == self.stop_after:
            self.stop.set()

    def validation(self, progress, score, *, best) -> None:
        self.scores.append((progress.step, best))


class Begun(Exception):
    """The first step is about to be taken."""


class Beginning(Silent):
    """A listener that ends the training before its first step, which costs most: the graph is traced there."""

    def start(self, spec, about, progress) -> None:
        raise Begun


def begin(spec: TrainSpec) -> Beginning:
    """All that is done before the first step; what was told."""
    listener = Beginning()
    with pytest.raises(Begun):
        train(spec, listener, listener.stop)
    return listener


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn"))


def spec_of(dataset: Path, out: Path, **options) -> TrainSpec:
    return TrainSpec.parse({"dataset": dataset, "out": out, **TINY, **options})


def losses(out: Path) -> list[float]:
    return read_columns(out / "training" / STEPS, "loss")[0]


def go(spec: TrainSpec, listener: Silent | None = None) -> TrainReport:
    listener = listener or Silent()
    return train(spec, listener, listener.stop)


class Trained(NamedTuple):
    """A training that went to its end."""

    out: Path
    listener: Silent
    report: TrainReport


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory) -> Trained:
    """A training of 6 steps, for tests that leave its folder as it is."""
    out, listener = tmp_path_factory.mktemp("trained") / "houses", Silent()
    return Trained(out, listener, go(spec_of(dataset, out), listener))


@pytest.fixture(scope="module")
def trained(finished) -> Path:
    """Its folder."""
    return finished.out


def test_a_model_folder_comes_out(finished) -> None:
    out, listener, report = finished
    assert not report.already
    model, card = load_bundle(out)
    assert card.name == "houses"
    assert card.bands == ("red", "green", "blue")
    assert [info.name for info in card.classes] == ["ground", "house"]
    assert card.ground_sample_distance == pytest.approx(0.5, abs=1e-3)
    assert card.credits == ("drawn by tests/drawn.py",)
    assert card.scaling.divisor == 255
    assert len(card.scaling.mean) == 3
    assert card.training["spec"]["network"]["width"] == 0.02
    assert card.training["iou_house"] == pytest.approx(report.score.iou["house"], abs=1e-3)
    assert card.training["iou_by_scene"] == {"v0": {n: card.training[f"iou_{n}"] for n in ("ground", "house")}}
    assert model.output_shape == (None, None, None, 2)
    assert listener.steps == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in listener.scores] == [3, 6]
    assert listener.scores[0][1] is True
    assert report.progress.step == 6
    assert 0 < report.progress.waited + report.progress.validating < report.progress.seconds
    folder = out / "training"
    for name in ("curves.png", "panel-best.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 90
    assert json.loads((folder / "summary.json").read_text())["steps"] == 6
    assert not list(out.rglob("*partial*"))


def placed(folder: Path) -> Path:
    """A dataset of three places, the last of which is marked to be validated on; its TOML."""
    path = write_dataset(folder, train=2, validate=1, height=60, width=75)
    path.write_text(path.read_text() + 'place_from = "([a-z][0-9])"\n')
    return path


def test_a_place_that_is_left_out_validates_and_all_others_train_however_marked(tmp_path, nothing_learnt) -> None:
    spec = spec_of(placed(tmp_path / "data"), tmp_path / "m", leave_out="t1", steps=3)
    found = load_scenes(spec)
    assert {scene.name: scene.split for scene in found.scenes} == {"t0": "train", "v0": "train", "t1": "validate"}
    go(spec)
    facts = load_card(tmp_path / "m").training
    assert facts["left_out"] == ["t1"]
    assert list(load_card(tmp_path / "m").appearance.places) == ["t0", "v0"]
    assert list(facts["iou_by_place"]) == ["t1"]
    with pytest.raises(UsageError, match="--leave-out t1, now t0"):
        go(spec_of(spec.dataset, tmp_path / "m", leave_out="t0", steps=3))


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ("t7", r"--leave-out t7: no such place in .*; expected some of t0, t1, v0"),
        ("t0,t1,v0", "nothing is left of .* to train on"),
    ],
)
def test_places_that_cannot_be_left_out_are_told(tmp_path, places, told) -> None:
    with pytest.raises(UsageError, match=told):
        go(spec_of(placed(tmp_path / "data"), tmp_path / "m", leave_out=places))
    assert not (tmp_path / "m").exists()


def test_the_same_seed_gives_the_same_losses(dataset, trained, tmp_path) -> None:
    go(spec_of(dataset, tmp_path / "same", threads=3))
    assert losses(tmp_path / "same") == losses(trained)


def test_stopped_and_gone_on_equals_undisturbed(dataset, tmp_path) -> None:
    options = {
        "ema": 0.9,
        "accumulate": 2,
        "schedule": "plateau",
        # What normalises is resumed by those that are killed: test_ended.py.
        "network": {**TINY["network"], "dropout": 0.2},
    }
    whole = go(spec_of(dataset, tmp_path / "whole", **options))
    spec = spec_of(dataset, tmp_path / "parts", **options)
    with pytest.raises(Interrupted, match=r"step 3; .*goes on"):
        go(spec, Silent(stop_after=3))  # with half of what is accumulated, at the end of an epoch
    load_bundle(spec.out)
    again = go(spec)
    assert losses(spec.out) == losses(tmp_path / "whole")
    for one, other in zip(again.score.scenes, whole.score.scenes, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
    one, other = (load_bundle(tmp_path / name)[0].get_weights() for name in ("whole", "parts"))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_training_is_left_alone_unless_asked_for_another_seed(dataset, trained, tmp_path) -> None:
    spec = spec_of(dataset, shutil.copytree(trained, tmp_path / "m"))
    before = (spec.out / "model.keras").stat().st_mtime_ns
    listener = Silent()
    assert go(spec, listener).already
    assert listener.steps == []
    assert (spec.out / "model.keras").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"--seed 1, now 2.*--overwrite"):
        go(spec_of(dataset, spec.out, seed=2))
    assert not go(spec_of(dataset, spec.out, seed=2, overwrite=True)).already
    assert losses(spec.out) != losses(trained)


def test_a_folder_with_another_model_is_not_written_into(dataset, tmp_path) -> None:
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a model already"):
        go(spec_of(dataset, tmp_path))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MISTAKES = [
    ({"loss": "foo"}, "no term is called 'foo'"),
    ({"class_weights": "1,2,3"}, "3 values for 2 classes"),
    ({"encoder_weights": "nowhere.h5"}, "nowhere.h5: no such file"),
]


@pytest.mark.parametrize(("mistake", "told"), MISTAKES)
def test_a_mistake_leaves_no_trace(dataset, tmp_path, mistake, told) -> None:
    spec = spec_of(dataset, tmp_path / "m", **mistake)
    with pytest.raises((UsageError, InputError), match=told):
        go(spec)
    assert not spec.out.exists()


@pytest.mark.parametrize(("mistake", "told"), MISTAKES)
def test_a_mistake_with_overwrite_costs_nothing_of_what_is_there(dataset, trained, mistake, told) -> None:
    before = contents(trained)
    assert {"card.json", "model.keras", "training/.state/last.npz"} <= before.keys()
    with pytest.raises((UsageError, InputError), match=told):
        go(spec_of(dataset, trained, overwrite=True, **mistake))
    assert contents(trained) == before


def test_options_that_nothing_was_learnt_with_bind_nobody(dataset, tmp_path) -> None:
    out = tmp_path / "m"
    (out / "training").mkdir(parents=True)
    (out / "training" / "train.json").write_text('{"fingerprint": "another", "spec": {"loss": "foo"}}')
    begin(spec_of(dataset, out, steps=1))


def test_the_old_model_is_gone_as_soon_as_a_new_training_begins(dataset, trained, tmp_path) -> None:
    out = shutil.copytree(trained, tmp_path / "m")

    begin(spec_of(dataset, out, steps=1, seed=2, overwrite=True))
    assert not contents(out).keys() & {
        "card.json", "model.keras", "training/summary.json", "training/curves.png", "training/panel-best.png",
        "training/.state/last.npz", "training/.state/best.npz",
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"--init .*--overwrite would remove it"):
        go(spec_of(dataset, out, init=out, overwrite=True))


def test_other_options_are_told_by_the_key_that_changed(dataset, trained) -> None:
    with pytest.raises(UsageError) as raised:
        go(spec_of(dataset, trained, network={**TINY["network"], "width": 0.03}))
    assert "(--network width=0.02, now 0.03)" in str(raised.value)


def test_what_an_earlier_version_trained_otherwise_is_not_gone_on_with(dataset, trained, tmp_path) -> None:
    out = shutil.copytree(trained, tmp_path / "m")
    told = json.loads((out / "training" / "train.json").read_text())
    (out / "training" / "train.json").write_text(json.dumps({**told, "fingerprint": "older", "algorithm": 0}))
    with pytest.raises(UsageError, match="an earlier tileseg trained otherwise"):
        go(spec_of(dataset, out))


def test_labels_for_validation_are_read_before_the_first_step(dataset, tmp_path) -> None:
    shutil.copytree(dataset.parent, tmp_path / "data")
    with rasterio.open(tmp_path / "data" / "label_v0.tif", "r+") as file:
        labels = file.read(1)
        labels[-1, -1] = 7
        file.write(labels, 1)
    listener = Silent()
    with pytest.raises(InputError, match=r"label_v0.tif: has the value 7"):
        go(spec_of(tmp_path / "data" / "dataset.toml", tmp_path / "m"), listener)
    assert listener.steps == []
    assert not (tmp_path / "m").exists()


def test_a_warm_up_that_outlasts_the_training_is_said(dataset, tmp_path) -> None:
    told = begin(spec_of(dataset, tmp_path / "m", steps=1, warmup=40, rate=0.002))
    assert [text for text in told.notices if "--warmup" in text] == [
        "--warmup 40: is longer than the training (1 step), so the learning rate never reaches 0.002"
    ]


def test_a_training_of_usual_length_with_the_default_warm_up_goes_on(dataset, tmp_path, nothing_learnt) -> None:
    """As those do that began when the default was 50 always, and their options said so."""
    before = spec_of(dataset, tmp_path / "m", steps=500, warmup=50)
    with pytest.raises(Interrupted):
        go(before, Silent(stop_after=1))
    begin(spec_of(dataset, before.out, steps=500, warmup=None))


def test_two_at_once_are_refused(dataset, tmp_path) -> None:
    with Ledger(tmp_path / "training" / ".state").lock(), pytest.raises(LockedError):
        go(spec_of(dataset, tmp_path))


def test_a_loss_that_is_no_number_stops_with_advice(dataset, tmp_path) -> None:
    with pytest.raises(TilesegError, match=r"loss is (nan|inf) after step \d+.*--rate") as raised:
        go(spec_of(dataset, tmp_path / "m", rate=1e38, warmup=0, clip=None, schedule="constant"))
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)
    assert "there is no model yet, so the same --out takes other options" in str(raised.value)
    begin(spec_of(dataset, tmp_path / "m", steps=1))


def test_a_network_that_gives_no_numbers_is_not_kept(dataset, tmp_path) -> None:
    options = {"rate": 1e38, "warmup": 0, "clip": None, "schedule": "constant", "steps_per_epoch": 1}
    with pytest.raises(TilesegError, match=r"not finite after step 1.*--rate.*there is no model yet"):
        go(spec_of(dataset, tmp_path / "m", **options))
    assert not (tmp_path / "m" / "card.json").exists()


def test_what_is_kept_when_the_loss_is_no_number_later(dataset, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "learning_rate", lambda spec, step, *rest: 1e-3 if step == 0 else 1e38)
    options = {"warmup": 0, "clip": None, "schedule": "constant", "steps_per_epoch": 1}
    with pytest.raises(
        TilesegError, match=r"after step [23].*best so far is kept, and other options need another --out"
    ):
        go(spec_of(dataset, tmp_path / "m", **options))
    load_bundle(tmp_path / "m")


def test_frozen_layers_stay_as_they_were(dataset, tmp_path) -> None:
    go(spec_of(dataset, tmp_path / "first", steps=2))
    go(spec_of(dataset, tmp_path / "m", steps=1, init=tmp_path / "first", freeze=3))
    before, after = (load_bundle(tmp_path / name)[0] for name in ("first", "m"))

    def moved(layer: str) -> bool:
        pairs = zip(*(m.get_layer(layer).get_weights() for m in (before, after)), strict=True)
        return not all(np.array_equal(a, b) for a, b in pairs)

    assert [block for block in range(1, 6) if not moved(f"block{block}_conv1")] == [1, 2, 3]
    assert moved("decoder4_conv1")
    with pytest.raises(UsageError, match="--freeze 6: the encoder has 5 layers"):
        go(spec_of(dataset, tmp_path / "n", freeze=6))
    assert not (tmp_path / "n").exists()


def test_normalisations_are_frozen_with_their_convolutions() -> None:
    network = build_network(NetworkSpec(width=0.02), 3, 2)
    assert frozen_layers(network, 3) == {
        f"block{i}_conv{j}{norm}" for i, j in ((1, 1), (1, 2), (2, 1)) for norm in ("", "_bn")
    }
    assert len(frozen_layers(network, 13)) == 26
    assert frozen_layers(network, 0) == frozenset()


def test_unfreezing_releases_the_deepest_block_first(dataset, tmp_path) -> None:
    spec = spec_of(dataset, tmp_path / "m", unfreeze=1, steps_per_epoch=1, steps=3)
    state = Store(spec.out / "training" / ".state")
    seen: list[dict[str, np.ndarray]] = []

    def see() -> None:
        seen.append(dict(state.read(spec.out / "training" / ".state" / "last.npz").arrays))

    class Watching(Silent):
        """Sees what each epoch leaves; stops the training in its second one."""

        def step(self, progress, share, loss, rate) -> None:
            super().step(progress, share, loss, rate)
            if progress.step == 2:
                see()
                self.stop.set()

    with pytest.raises(Interrupted):
        go(spec, Watching())
    see()
    go(spec)
    see()
    # The order of the arrays is that of the network's variables, whose names say the block.
    keras.utils.set_random_seed(spec.seed)
    names = [v.path for v in build_network(spec.network, 3, 2).variables]

    def moved(before, after) -> set[str]:
        pairs = ((n, before[f"network/{i}"], after[f"network/{i}"]) for i, n in enumerate(names))
        return {n.partition("_")[0] for n, a, b in pairs if not np.array_equal(a, b)}

    assert moved(seen[0], seen[1]) >= {"block5"}
    assert not moved(seen[0], seen[1]) & {"block1", "block2", "block3", "block4"}
    assert moved(seen[1], seen[2]) >= {"block4", "block5"}
    assert not moved(seen[1], seen[2]) & {"block1", "block2", "block3"}


@pytest.mark.parametrize("scaling", ["dataset", "unit"])
def test_where_images_have_no_data_the_network_sees_what_a_run_shows_it(tmp_path, scaling) -> None:
    dataset = write_dataset(tmp_path / "data", train=1, validate=1)
    for name in ("t0", "v0"):
        with rasterio.open(tmp_path / "data" / f"image_{name}.tif", "r+") as file:
            pixels = file.read()
            pixels[:, 20:60, 30:90] = 0
            file.write(pixels)
            file.nodata = 0
    spec = spec_of(dataset, tmp_path / "m", scaling=scaling)
    prepared = prepare(spec, load_scenes(spec), TrainingFolder.of(spec), lambda text: None)
    fill = fill_of(prepared.normalisation.scaling, "uint8")
    assert min(fill) > 0
    for scene in prepared.dataset.scenes:
        pixels, labels = scene.read(scene.extent)
        shown, valid = scene.scene.read(scene.extent, fill)
        np.testing.assert_array_equal(pixels, shown)
        assert not valid[20:60, 30:90].any()
        assert (labels[20:60, 30:90] == 255).all()
    assert {scene.fill for scene in prepared.sampler.scenes} == {fill}
    assert {scene.fill for scene, _ in prepared.validation.windows} == {fill}


@pytest.mark.parametrize("bands", ["['red', 'green', 'nir']", "['red']"])
def test_a_model_of_other_bands_is_no_beginning(dataset, trained, tmp_path, bands) -> None:
    shutil.copytree(dataset.parent, tmp_path / "data")
    toml = tmp_path / "data" / "dataset.toml"
    toml.write_text(toml.read_text().replace('["red", "green", "blue"]', bands))
    with pytest.raises(InputError, match=r"takes the bands red, green, blue, the dataset has red") as raised:
        go(spec_of(toml, tmp_path / "m", init=trained))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "m").exists()


def test_what_does_not_fit_of_a_model_is_told(dataset, trained, tmp_path) -> None:
    shutil.copytree(dataset.parent, tmp_path / "data")
    toml = tmp_path / "data" / "dataset.toml"
    more = '{ name = "house", color = "#d73027" },\n{ name = "shed", color = "#0000ff" },'
    toml.write_text(toml.read_text().replace('{ name = "house", color = "#d73027" },', more))
    listener = begin(spec_of(toml, tmp_path / "m", steps=1, init=trained))
    (told,) = [text for text in listener.notices if "--init" in text]
    layers = [layer for layer in load_bundle(trained)[0].layers if layer.weights]
    assert f"{len(layers) - 1} of {len(layers)} layers fit" in told
    assert told.endswith("these start anew: logits")


@pytest.mark.parametrize("kind", ["file", "below a file", "device"])
def test_an_output_that_cannot_be_written_is_told_in_one_line(dataset, tmp_path, kind) -> None:
    (tmp_path / "file").write_text("mine")
    out = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "m", "device": Path("/proc/m")}[kind]
    with pytest.raises(InputError, match="cannot be written") as raised:
        go(spec_of(dataset, out, steps=1))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_becomes_read_only_is_told_in_one_line(dataset, tmp_path, monkeypatch, nothing_learnt) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "m"))

    monkeypatch.setattr(Store, "save", refuse)
    with pytest.raises(InputError, match="cannot be written: Read-only file system"):
        go(spec_of(dataset, tmp_path / "m", steps=3))


@pytest.fixture(scope="module")
def unmoved(dataset, trained, tmp_path_factory) -> Trained:
    """A training that begins with a model and learns next to nothing more."""
    out, listener = tmp_path_factory.mktemp("unmoved") / "second", Silent()
    spec = spec_of(dataset, out, init=trained, steps=50, steps_per_epoch=1, patience=2, rate=1e-9)
    return Trained(out, listener, go(spec, listener))


def test_a_training_may_start_from_a_model(dataset, trained, unmoved, tmp_path) -> None:
    (one, card), (other, second) = load_bundle(trained), load_bundle(unmoved.out)
    assert second.scaling == card.scaling
    assert second.hands_over == card.hands_over
    # A card is given to others: it does not tell where things lie here.
    assert second.training["spec"]["init"] == trained.name
    for a, b in zip(one.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
    with pytest.raises(InputError, match="none of its layers fits"):
        go(spec_of(dataset, tmp_path / "third", init=trained, network={"width": 0.05}))


def test_a_model_to_begin_with_brings_its_network_its_rate_and_what_it_hands_over(dataset, tmp_path) -> None:
    """`--init MODEL` alone; what is given wins."""
    usual = {"dataset": dataset, "out": tmp_path / "m", "init": resolve_model("embedded")}
    spec, told = like_init(TrainSpec.parse(usual))
    options = load_card(resolve_model("embedded")).training["spec"]["network"]
    assert spec.network.model_dump(mode="json", include=set(options)) == options
    assert spec.rate == 3e-4
    assert "width=0.25,decoder_width=0.5,decoder_convs=1 and --rate 0.0003" in told
    spec, told = like_init(TrainSpec.parse(usual | {"network": "width=0.05", "rate": 0.1}))
    assert (spec.network.width, spec.rate, told) == (0.05, 0.1, None)
    assert like_init(TrainSpec.parse({"dataset": dataset, "out": tmp_path / "m"}))[1] is None


def test_patience_ends_a_training(unmoved) -> None:
    assert unmoved.report.progress.step < 50
    assert any("stopped early" in notice for notice in unmoved.listener.notices)


@pytest.mark.parametrize(("precision", "network"), [("bfloat16", {"deep_supervision": True}), ("float16", {})])
def test_what_serves_training_alone_is_not_saved(dataset, tmp_path, precision, network) -> None:
    """Neither 16 bits nor the outputs of coarser stages."""
    report = go(spec_of(dataset, tmp_path / "m", steps=3, precision=precision, network={**TINY["network"], **network}))
    model, _ = load_bundle(tmp_path / "m")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert len(model.outputs) == 1
    assert not [layer.name for layer in model.layers if "auxiliary" in layer.name]
    assert np.isfinite(losses(tmp_path / "m")).all()
    assert report.score is not None


@pytest.fixture(scope="module")
def brief(tmp_path_factory) -> Trained:
    """A training of a moment, without scenes to validate on."""
    folder, listener = tmp_path_factory.mktemp("brief"), Silent()
    dataset = write_dataset(folder / "data", train=1, validate=0)
    return Trained(folder / "m", listener, go(spec_of(dataset, folder / "m", steps=None, minutes=0.02), listener))


def test_without_validation_the_last_weights_are_kept(brief) -> None:
    assert brief.report.score is None
    assert any("validate" in notice for notice in brief.listener.notices)
    load_bundle(brief.out)


def test_time_ends_a_training(brief) -> None:
    assert brief.report.progress.step >= 1
    assert brief.report.progress.seconds >= 1.2


def test_what_is_odd_about_the_scenes_is_said_before_the_first_step(tmp_path, nothing_learnt) -> None:
    dataset = write_dataset(tmp_path / "data", train=1, validate=1)
    for name in ("t0", "v0"):
        for kind in ("image", "label"):
            path = tmp_path / "data" / f"{kind}_{name}.tif"
            pixels = np.asarray(Image.open(path))
            # As pictures are: without coordinates; and masks as other tools write them.
            Image.fromarray(pixels if kind == "image" else pixels * np.uint8(255)).save(path)
    listener = Silent()
    go(spec_of(dataset, tmp_path / "m", steps=1, warmup=0, gsd=0.25), listener)  # to the end: the card is read below
    sizes, mask = listener.notices
    assert "image_t0.tif: does not say its ground sample distance" in sizes
    assert "as it is instead of at 0.25 m per pixel, and the model's card names none" in sizes
    assert sizes.endswith("(1 more like it)")
    assert "label_t0.tif: has no values but 0 and 255" in mask
    assert mask.endswith('255 = "house" } (1 more like it)')
    assert load_card(tmp_path / "m").ground_sample_distance is None


def test_where_nothing_is_known_a_mask_that_is_misunderstood_is_named(tmp_path) -> None:
    """As GDAL and QGIS write masks: 0 is transparent, and 255 the class."""
    dataset = write_dataset(tmp_path / "data", train=1, validate=1)
    for name in ("t0", "v0"):
        with rasterio.open(tmp_path / "data" / f"label_{name}.tif", "r+") as file:
            file.write(file.read() * np.uint8(255))
            file.nodata = 0
    with pytest.raises(InputError, match=r'no pixel .*label_map = \{ 0 = "ground", 255 = "house" \}') as raised:
        go(spec_of(dataset, tmp_path / "m", steps=1))
    assert "\n" not in str(raised.value)


def test_mistakes_on_the_command_line(tmp_path) -> None:
    from typer.testing import CliRunner

    from tileseg.cli.main import app

    runner = CliRunner()
    for arguments, error in (
        (["train", "--out", str(tmp_path / "m")], UsageError),
        (["train", str(tmp_path / "none.toml")], UsageError),
        (["train", str(tmp_path / "none.toml"), "--out", str(tmp_path / "m"), "--loss", "ce+"], InputError),
    ):
        found = runner.invoke(app, arguments)
        assert isinstance(found.exception, error), found.exception
        assert "\n" not in str(found.exception)
