"""A student that learns from a teacher: the loss by hand, what the teacher is shown, whole tiny trainings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from drawn import write_dataset
from fakes import smooth_noise, write_scene
from nets import Net
from scipy.special import log_softmax
from silent import Silent

from tileseg.card import ClassInfo, Form, Loss, Scaling
from tileseg.dataset.dataset import load_dataset
from tileseg.dataset.patches import GAP, UNLABELLED, PatchSampler
from tileseg.engine.keras import KerasNetwork
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.errors import InputError, Interrupted, TilesegError, UsageError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_bundle, save_bundle
from tileseg.nn.description import Description
from tileseg.nn.folder import add_form, load_card
from tileseg.nn.packing import pack
from tileseg.train.augment_spec import AugmentSpec
from tileseg.train.feed import Feed
from tileseg.train.folder import TrainingFolder
from tileseg.train.losses import DistilledLoss, parse_loss
from tileseg.train.prepare import PreparedTraining, load_scenes, prepare
from tileseg.train.spec import TrainSpec
from tileseg.train.step import TrainingModel
from tileseg.train.teacher import Lesson
from tileseg.train.trainer import train
from tileseg.tta import Flip, View

CLASSES = (
    ClassInfo(name="house", color="#d73027"),
    ClassInfo(name="ground", color="#c8b48c", background=True),
)
"""The drawn dataset has them the other way round."""

TINY: dict[str, Any] = {
    "crop": 32,
    "batch": 2,
    "steps": 4,
    "steps_per_epoch": 2,
    "warmup": 1,
    "rate": 5e-3,
    "threads": 1,
    "panel_every": 0,
}


def spec_of(dataset: Path, out: Path, **options: Any) -> TrainSpec:
    bands = 4 if "four" in dataset.parent.name else 3
    network = out.parent / "student.keras"
    if not network.exists():
        save_student(network, bands)
    return TrainSpec.parse({"dataset": dataset, "out": out, "network": network, **TINY, **options})


def save_student(path: Path, bands: int) -> None:
    """A network that is quick to train."""
    keras.utils.set_random_seed(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = keras.Input((None, None, bands))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(image)
    keras.Model(image, keras.layers.Conv2D(2, 1)(x)).save(path)


def go(spec: TrainSpec, stop_after: int | None = None) -> Silent:
    listener = Silent(stop_after)
    train(spec, listener, listener.stop)
    return listener


def prepared_of(spec: TrainSpec) -> PreparedTraining:
    return prepare(spec, load_scenes(spec), TrainingFolder.of(spec), lambda text: None)


def save_teacher(folder: Path, *, bands=("nir", "red"), bias: float = 0.0, **described: Any) -> Path:
    """One convolution over some bands in an order of its own, and the classes in another than the dataset's."""
    keras.utils.set_random_seed(5)
    image = keras.Input((None, None, len(bands)))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    logits = keras.layers.Conv2D(2, 1, bias_initializer=keras.initializers.Constant(bias))(x)
    options = {"classes": CLASSES, "scaling": Scaling(divisor=100, mean=(0.5, 1.2)[: len(bands)], std=(0.7,))}
    save_bundle(keras.Model(image, logits), folder, Description(name="old", bands=bands, **{**options, **described}))
    return folder


FOUR = """
bands = ["red", "green", "blue", "nir"]
image_bands = [1, 2, 3, 4]
classes = [
  { name = "ground", color = "#c8b48c", background = true },
  { name = "house", color = "#d73027" },
]
"""


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """A dataset of four bands: a labelled scene with a gap, one without labels and with a gap, one to validate."""
    folder = tmp_path_factory.mktemp("four")
    text = FOUR
    for seed, (name, split, labelled) in enumerate(
        [("a", "train", True), ("b", "train", False), ("v", "validate", True)]
    ):
        pixels = smooth_noise(70, 90, 4, seed)
        pixels[10:30, 20:50] = 0
        write_scene(folder / f"{name}.tif", pixels, nodata=0)
        text += f'[[scenes]]\nsplit = "{split}"\nimage = "{name}.tif"\n'
        if labelled:
            labels = (pixels[..., 0] > 110).astype(np.uint8)
            labels[40:50, :30] = 255
            write_scene(folder / f"{name}_labels.tif", labels[..., None])
            text += f'labels = "{name}_labels.tif"\n'
    (folder / "dataset.toml").write_text(text)
    return folder / "dataset.toml"


# The loss


def lesson_of(classes: int = 3) -> tuple[Lesson, npt.NDArray[np.float64]]:
    """Labels with unknown pixels, a teacher, which pixels count, and the student's logits."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, classes, (2, 3, 5)).astype(np.uint8)
    labels[0, :2] = 255
    counted = np.ones(labels.shape, bool)
    counted[0, 0, 1:3] = counted[1, 2, 4] = False
    labels[~counted] = 255
    return Lesson(labels, rng.normal(0, 2, (2, 3, 5, classes)), counted), rng.normal(0, 2, (2, 3, 5, classes))


def by_hand(lesson: Lesson, logits: npt.NDArray[np.float64], alpha: float, temperature: float) -> float:
    """Hinton's loss with cross-entropy as the ordinary term, in NumPy."""
    log_p, log_q = log_softmax(lesson.logits / temperature, -1), log_softmax(logits / temperature, -1)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)[lesson.counted].mean()
    known = lesson.labels != 255
    certain = log_softmax(logits[known], -1)
    ordinary = -certain[np.arange(len(certain)), lesson.labels[known]].mean()
    return float((1 - alpha) * ordinary + alpha * temperature**2 * divergence)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.9, 1.0), (0.2, 7.0)])
def test_the_loss_and_its_gradient_are_those_computed_by_hand(alpha, temperature) -> None:
    lesson, logits = lesson_of()
    loss = DistilledLoss(parse_loss("ce", classes=3), alpha, temperature)
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(lesson, z)
    assert float(value) == pytest.approx(by_hand(lesson, logits, alpha, temperature), rel=1e-6)
    slope, expected = to_numpy(tape.gradient(value, z)), np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-4
        ahead, behind = (by_hand(lesson, logits + sign * step, alpha, temperature) for sign in (1, -1))
        expected[index] = (ahead - behind) / 2e-4
    np.testing.assert_allclose(slope, expected, atol=1e-7)
    assert (slope[~lesson.counted] == 0).all()


def test_one_channel_is_the_logit_of_the_second_class() -> None:
    lesson, logits = lesson_of(classes=2)
    loss = DistilledLoss(parse_loss("ce", classes=2), 0.5, 2.0)
    one = tf.constant(logits[..., 1:] - logits[..., :1])
    assert float(loss(lesson, one)) == pytest.approx(by_hand(lesson, logits, 0.5, 2.0), rel=1e-6)


def test_pixels_without_data_change_nothing_whatever_is_there() -> None:
    lesson, logits = lesson_of()
    loss = DistilledLoss(parse_loss("ce+dice", classes=3), 0.5, 2.0)
    before = float(loss(lesson, tf.constant(logits)))
    logits[~lesson.counted] = np.inf
    lesson.logits[~lesson.counted] = np.nan
    assert float(loss(lesson, tf.constant(logits))) == before


def test_weights_of_classes_are_for_the_labels_alone() -> None:
    lesson, logits = lesson_of()
    plain, weighted = (
        DistilledLoss(parse_loss("ce", classes=3, class_weights=w), 0.5, 2.0) for w in (None, (1.0, 9.0, 0.1))
    )
    nothing_known = lesson._replace(labels=np.full_like(lesson.labels, 255))
    assert float(plain(nothing_known, tf.constant(logits))) == float(weighted(nothing_known, tf.constant(logits)))
    assert float(plain(lesson, tf.constant(logits))) != float(weighted(lesson, tf.constant(logits)))


def test_under_deep_supervision_every_output_learns_from_the_teacher() -> None:
    lesson, logits = lesson_of()
    image = keras.Input((None, None, 3))
    loss = DistilledLoss(parse_loss("ce", classes=3), 0.5, 2.0)
    trained = TrainingModel(keras.Model(image, keras.layers.Conv2D(3, 1)(image)), loss, (0.5,), (0.25,))
    outputs = [logits, logits[::-1], -logits]
    found = trained.compute_loss(y=lesson, y_pred=[tf.constant(z) for z in outputs])
    expected = [by_hand(lesson, z, 0.5, 2.0) for z in outputs]
    assert float(found) == pytest.approx(np.dot(expected, np.array([4, 2, 1]) / 7), rel=1e-6)


# What the teacher is shown, and what is made of its answer


def test_the_teacher_gives_on_patches_what_it_gives_in_a_run(four, tmp_path) -> None:
    teacher = save_teacher(tmp_path / "teacher")
    spec = spec_of(four, tmp_path / "m", teacher=teacher, augment="none", batch=4)
    prepared = prepared_of(spec)
    images, lesson = Feed(prepared)(3)
    assert isinstance(lesson, Lesson)
    pixels, codes = prepared.sampler.coded_batch(3)
    assert {255, GAP, UNLABELLED} & {*np.unique(codes).tolist()} >= {GAP, UNLABELLED}
    model, card = load_bundle(teacher)
    whole = PredictorSpec((32, 32), 0, (View(1, Flip()),), card.scaling, 4, halo=0, output="float32")
    seen = pixels[..., [3, 0]].astype(np.float32)
    seen[codes == GAP] = card.scaling.zero
    expected = Predictor(KerasNetwork(model, card), whole)(seen)
    # Its first class is the dataset's second. bfloat16 may be the machine's precision.
    rough = 0.05 if prepared.teacher.choice.precision != "float32" else 1e-4
    np.testing.assert_allclose(lesson.logits, expected.transpose(0, 2, 3, 1)[..., ::-1], atol=rough)
    assert np.abs(lesson.logits).std() > 0.1
    np.testing.assert_array_equal(lesson.counted, codes != GAP)
    np.testing.assert_array_equal(lesson.labels, np.where(codes < 255, codes, 255))
    assert images.shape == (4, 32, 32, 4)


def test_codes_move_with_the_pixels(four, tmp_path) -> None:
    """Where an image has no data the network sees the same value everywhere, and the code says so."""
    strong = AugmentSpec.none().model_copy(update={"turns": True, "flips": True, "rotation": 30.0, "cutmix": 1.0})
    spec = spec_of(four, tmp_path / "m", teacher=save_teacher(tmp_path / "t"), augment=strong.model_dump(), batch=8)
    prepared = prepared_of(spec)
    asked: list[Any] = []
    prepared.teacher.lesson = lambda images, codes, scenes: asked.append((images, codes, scenes))
    Feed(prepared)(1)
    images, codes, scenes = asked[0]
    empty = prepared.normalisation.to_unit(np.asarray(prepared.dataset.train[0].fill, np.float32))
    alike = (np.abs(images - empty) < 1e-3).all(axis=-1)
    assert 0.02 < (codes == GAP).mean() < 0.6
    assert (alike & (codes == GAP)).sum() > 0.8 * (codes == GAP).sum()  # edges are mixed with their neighbours
    assert alike[(codes != GAP) & (codes != 255)].mean() < 0.1
    assert {0, 1} >= {*scenes}


def test_scenes_without_labels_take_part_in_sampling_and_statistics(four) -> None:
    dataset = load_dataset(four)
    sampler = PatchSampler(dataset.train, 32, 8, seed=1, balance=0.0)
    drawn = [index for step in range(40) for index, _ in sampler.windows(step)]
    known, data = (int(part.sum()) for part in sampler.cells.teaching)
    assert data == 70 * 90 - 20 * 30
    assert known == data - 10 * 30
    assert np.mean(drawn) == pytest.approx(data / (known + data), abs=0.08)
    assert [scene.name for scene in dataset.validate] == ["v"]
    assert not sampler.cells.counts[1].any()


@pytest.mark.parametrize("scaling", [Scaling(kind="scene"), Scaling(divisor=100, mean=(0.5,))])
def test_a_teacher_that_a_run_would_give_the_scene_s_own_statistics_gets_them(four, tmp_path, scaling) -> None:
    """Because its card says so, or because it was trained on other pixels."""
    dtypes = ("uint8",) if scaling.kind == "scene" else ("uint16",)
    teacher = save_teacher(tmp_path / "teacher", scaling=scaling, dtypes=dtypes)
    prepared = prepared_of(spec_of(four, tmp_path / "m", teacher=teacher, augment="none"))
    dataset = load_dataset(four)
    values = np.concatenate([s.read_with_gaps(s.extent)[0][s.read_with_gaps(s.extent)[2]] for s in dataset.train[1:]])
    unit = prepared.normalisation.to_unit(values[None, :64].reshape(1, 8, 8, 4))
    seen = prepared.teacher._scaling(unit, np.zeros((1, 8, 8), bool), [1])
    expected = (values[:64, [3, 0]] - values[:, [3, 0]].mean(0)) / values[:, [3, 0]].std(0)
    np.testing.assert_allclose(seen.reshape(-1, 2), expected, atol=1e-4)


# Whole trainings


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn"), train=1, validate=1, height=70, width=90)


def test_resume_equals_undisturbed_and_the_card_says_who_taught(four, tmp_path) -> None:
    options = {
        "augment": "none",
        "teacher": save_teacher(tmp_path / "teacher"),
        "distill": "alpha=0.7,temperature=3",
    }
    whole = go(spec_of(four, tmp_path / "whole", **options))
    spec = spec_of(four, tmp_path / "parts", **options)
    with pytest.raises(Interrupted):
        go(spec, stop_after=2)
    rest = go(spec)
    assert rest.losses == whole.losses[2:]
    facts = load_card(spec.out).training
    teacher = load_card(tmp_path / "teacher")
    assert facts["teacher"] == {
        "name": "old", "sha256": teacher.sha256, "engine": "keras", "precision": facts["teacher"]["precision"],
        "alpha": 0.7, "temperature": 3.0,
    }  # fmt: skip
    assert facts["spec"]["teacher"] == "teacher"
    with pytest.raises(UsageError, match=r"--distill alpha=0\.7, now 0\.5"):
        go(spec_of(four, spec.out, **{**options, "distill": "temperature=3"}))
    shutil.rmtree(tmp_path / "teacher")
    save_teacher(tmp_path / "teacher", bias=0.5)
    with pytest.raises(UsageError, match=r"--teacher .* is another model by now"):
        go(spec)


def test_a_student_learns_from_the_teacher_alone_where_nothing_is_labelled(tmp_path) -> None:
    """A teacher that tells bright red from the rest, and two scenes of which nothing is known."""
    image = keras.Input((None, None, 1))
    logits = keras.layers.Conv2D(2, 1)(image)
    model = keras.Model(image, logits)
    model.set_weights([np.array([[[[4.0, -4.0]]]], np.float32), np.zeros(2, np.float32)])
    said = Description(name="red", bands=("red",), classes=CLASSES, scaling=Scaling(mean=(120,), std=(30,)))
    save_bundle(model, tmp_path / "teacher", said)
    text = FOUR.replace(', "nir"', "").replace(", 4]", "]")
    for name in ("a", "b"):
        write_scene(tmp_path / f"{name}.tif", smooth_noise(100, 120, 3, ord(name)))
        text += f'[[scenes]]\nimage = "{name}.tif"\n'
    (tmp_path / "dataset.toml").write_text(text)
    spec = spec_of(
        tmp_path / "dataset.toml", tmp_path / "m", teacher=tmp_path / "teacher", distill="alpha=1,temperature=2",
        steps=80, steps_per_epoch=80, rate=5e-2, augment="none",
    )  # fmt: skip
    found = go(spec)
    assert np.mean(found.losses[-5:]) < 0.25 * np.mean(found.losses[:5])
    student, card = load_bundle(spec.out)
    unseen = smooth_noise(64, 96, 3, 9)
    scaled = (unseen - np.asarray(card.scaling.zero)) / np.asarray(card.scaling.unit)
    given = to_numpy(student(scaled[None].astype(np.float32), training=False))[0].argmax(-1)
    truth = (unseen[..., 0] > 120).astype(np.uint8)
    assert (given == truth).mean() > 0.9
    assert any("no scenes to validate on" in text for text in found.notices)


def test_a_teacher_teaches_in_its_best_form(four, tmp_path) -> None:
    """Although a quantised one would be quicker."""
    teacher = save_teacher(tmp_path / "teacher")
    form = Form(
        file="model.int8.onnx", sha256="0" * 64, precision="int8", loss=Loss(iou=0, worst_iou=0, labels=0, data="a")
    )
    (tmp_path / "partial").write_bytes(b"")
    add_form(teacher, tmp_path / "partial", form)
    assert prepared_of(spec_of(four, tmp_path / "m", teacher=teacher)).teacher.choice.form.file == "model.keras"
    with pytest.raises(InputError, match=r"model\.int8\.onnx"):  # asked for, it is taken: this one is empty
        prepared_of(spec_of(four, tmp_path / "m", teacher=teacher, distill="precision=int8"))


def test_a_student_in_16_bits_learns_from_an_onnx_teacher(drawn, tmp_path) -> None:
    net = Net()
    net.save(tmp_path / "t.onnx", net.conv(net("Relu", net.conv("image", 3, 4)), 4, 2, 1))
    said = Description(name="onnx", bands=("red", "green", "blue"), classes=CLASSES, scaling=Scaling(divisor=255))
    pack(tmp_path / "t.onnx", tmp_path / "teacher", said)
    out = tmp_path / "m"
    found = go(spec_of(drawn, out, teacher=tmp_path / "teacher", precision="float16", steps=2, augment="none"))
    assert np.isfinite(found.losses).all()
    taught = load_card(out).training["teacher"]
    assert taught["engine"] in ("onnx", "openvino"), "whichever is installed"


@pytest.mark.parametrize(
    ("described", "options", "told"),
    [
        ({"bands": ("red", "swir")}, {}, r"takes the bands red, swir, and the dataset has no swir \(it has red, green"),
        (
            {"classes": (CLASSES[0], ClassInfo(name="water", color="#0000ff"))},
            {},
            "has the classes house, water, the dataset ground, house; expected the same names, in any order",
        ),
        ({}, {"teacher": "nowhere"}, "nowhere: no such model"),
    ],
)
def test_a_teacher_that_cannot_teach_this_is_refused_in_one_line(drawn, tmp_path, described, options, told) -> None:
    teacher = save_teacher(tmp_path / "teacher", **{"bands": ("blue", "red"), **described})
    with pytest.raises(InputError, match=told) as raised:
        go(spec_of(drawn, tmp_path / "m", **{"teacher": teacher, **options}))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "m").exists()


def test_patches_that_the_teacher_does_not_take_are_refused(drawn, tmp_path) -> None:
    image = keras.Input((None, None, 3))
    x = keras.layers.UpSampling2D(32)(keras.layers.MaxPooling2D(32)(image))
    save_bundle(
        keras.Model(image, keras.layers.Conv2D(2, 1)(x)), tmp_path / "t",
        Description(name="coarse", bands=("red", "green", "blue"), classes=CLASSES, scaling=Scaling()),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"--crop 48: --teacher .* multiples of 32"):
        go(spec_of(drawn, tmp_path / "m", teacher=tmp_path / "t", crop=48))


def test_a_teacher_of_another_resolution_is_told(drawn, tmp_path) -> None:
    teacher = save_teacher(tmp_path / "t", bands=("red", "blue"), ground_sample_distance=2.0)
    spec = spec_of(drawn, tmp_path / "m", teacher=teacher)
    notices: list[str] = []
    prepare(spec, load_scenes(spec), TrainingFolder.of(spec), notices.append)
    assert [text for text in notices if "trained at 2 m per pixel and sees patches of 0.5 m" in text]


def test_a_teacher_that_gives_no_numbers_is_told_from_a_student_that_does(four, tmp_path) -> None:
    prepared = prepared_of(
        spec_of(four, tmp_path / "m", teacher=save_teacher(tmp_path / "t", bias=np.inf), augment="none")
    )
    with pytest.raises(TilesegError, match="the teacher old gives values that are not finite"):
        Feed(prepared)(0)


def test_scenes_without_labels_need_a_teacher(four, tmp_path) -> None:
    with pytest.raises(InputError, match=r"b\.tif: has no labels in .*dataset.toml; give labels, or a --teacher"):
        go(spec_of(four, tmp_path / "m"))


def test_how_to_learn_from_a_teacher_is_nothing_without_one() -> None:
    needed = {"dataset": "d.toml", "out": "m"}
    with pytest.raises(UsageError, match=r"^--distill: says how a teacher is learnt from; give a --teacher"):
        TrainSpec.parse({**needed, "distill": "alpha=0.3"})
    with pytest.raises(UsageError, match="--distill alpha"):
        TrainSpec.parse({**needed, "teacher": "t", "distill": "alpha=1.5"})
    assert {"teacher", "distill"}.isdisjoint(TrainSpec.parse(needed).choices())


def test_a_place_without_labels_that_is_left_out_teaches_nothing(four) -> None:
    dataset = load_dataset(four).leaving_out(["b", "v"])
    assert [scene.name for scene in dataset.train] == ["a"]
    assert [scene.name for scene in dataset.validate] == ["v"]


def test_a_place_without_labels_cannot_be_evaluated(four, model, tmp_path, in_process) -> None:
    done = in_process("evaluate", "--model", model, four, "--places", "b", "--out", tmp_path / "e")
    assert done.returncode == 42
    assert "has no labels in b; choose other --places" in done.stderr


def test_the_check_of_a_dataset_says_which_scenes_have_no_labels(four, in_process) -> None:
    done = in_process("dataset", "check", four, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [scene["source"] for scene in report["scenes"]] == ["raster", "none", "raster"]
    told = [problem["message"] for problem in report["problems"]]
    assert [text for text in told if "b.tif: has no labels" in text and "--teacher" in text]
    assert not [text for text in told if "no scene for training has" in text]
