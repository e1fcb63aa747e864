"""Which form, engine and precision a run takes."""

from __future__ import annotations

import pytest

from tileseg.card import ClassInfo, Form, Loss, ModelCard
from tileseg.engine.choice import Device, choose
from tileseg.engine.kinds import ENGINES, EngineKind
from tileseg.errors import InputError, UsageError

PLAIN = Device(gpu=False, precision="float32", flags=frozenset({"sse4_1"}))
WHOLE = Device(gpu=False, precision="float32", flags=frozenset({"avx2", "avx512_vnni"}))
HALF = Device(gpu=False, precision="bfloat16", flags=frozenset({"avx512_bf16", "avx512_vnni"}))
GPU = Device(gpu=True, precision="bfloat16", flags=frozenset({"avx512_vnni"}))


def loss(iou: float) -> Loss:
    return Loss(iou=iou, worst_iou=iou, labels=0.004, data="two scenes, their labels")


def form(file: str, iou: float | None = None) -> Form:
    precision = "int8" if ".int8." in file else "float32"
    return Form(file=file, sha256="0" * 64, precision=precision, loss=None if iou is None else loss(iou))


def card_of(*forms: Form) -> ModelCard:
    classes = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))
    return ModelCard(
        name="net", bands=("r",), classes=classes, output_channels=2, stride=1, radius=1, flops_per_pixel=1,
        activation_bytes_per_pixel=1, parameters=1, forms=forms,
    )  # fmt: skip


OPENVINO = ENGINES["openvino"]
KERAS, ONNX = form("model.keras"), form("model.onnx")


@pytest.fixture(autouse=True)
def plain_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that no extra brings."""
    for name in [name for name, kind in ENGINES.items() if kind.extra]:
        monkeypatch.delitem(ENGINES, name)


def test_openvino_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_of(KERAS, ONNX, form("model.int8.onnx", 0.004))
    monkeypatch.setitem(ENGINES, "openvino", OPENVINO)
    chosen = {device: choose(card, "auto", "auto", device) for device in (PLAIN, WHOLE, HALF, GPU)}
    assert [(c.engine, c.precision) for c in chosen.values()] == [
        ("openvino", "float32"), ("openvino", "int8"), ("openvino", "int8"), ("keras", "bfloat16"),
    ]  # fmt: skip
    assert choose(card_of(KERAS, ONNX), "auto", "auto", HALF).precision == "bfloat16"


def test_an_engine_whose_tiles_would_not_equal_the_whole_is_taken_only_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENGINES, "openvino", OPENVINO)
    int8 = form("model.int8.onnx", 0.004)
    for exact_by, engine in ((["onnx"], "onnx"), (["onnx", "openvino"], "openvino")):
        card = card_of(KERAS, ONNX, int8.model_copy(update={"calibration": {"exact_by": exact_by}}))
        assert choose(card, "auto", "int8", WHOLE).engine == engine
        assert choose(card, "openvino", "int8", WHOLE).engine == "openvino"


@pytest.mark.parametrize(
    ("forms", "device", "engine", "precision", "expected"),
    [
        ((KERAS,), PLAIN, "auto", "auto", ("keras", "model.keras", "float32")),
        ((KERAS,), HALF, "auto", "auto", ("keras", "model.keras", "bfloat16")),
        ((KERAS, ONNX), PLAIN, "auto", "auto", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX), HALF, "auto", "auto", ("keras", "model.keras", "bfloat16")),
        ((KERAS, ONNX), HALF, "onnx", "auto", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX), HALF, "auto", "float32", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX), PLAIN, "auto", "bfloat16", ("keras", "model.keras", "bfloat16")),
        ((KERAS, ONNX), GPU, "auto", "auto", ("keras", "model.keras", "bfloat16")),
        ((ONNX,), GPU, "auto", "auto", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX, form("model.int8.onnx", 0.004)), WHOLE, "auto", "auto", ("onnx", "model.int8.onnx", "int8")),
        ((KERAS, ONNX, form("model.int8.onnx", 0.006)), WHOLE, "auto", "auto", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX, form("model.int8.onnx")), WHOLE, "auto", "auto", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX, form("model.int8.onnx", 0.004)), PLAIN, "auto", "auto", ("onnx", "model.onnx", "float32")),
        ((KERAS, ONNX, form("model.int8.onnx", 0.1)), PLAIN, "auto", "int8", ("onnx", "model.int8.onnx", "int8")),
        ((KERAS, form("model.int8.onnx", 0.004)), GPU, "auto", "auto", ("keras", "model.keras", "bfloat16")),
        ((form("model.int8.onnx"),), PLAIN, "auto", "auto", ("onnx", "model.int8.onnx", "int8")),
    ],
)
def test_the_fastest_that_the_machine_runs_well_and_loses_little(
    forms: tuple[Form, ...], device: Device, engine: str, precision: str, expected: tuple[str, str, str]
) -> None:
    choice = choose(card_of(*forms), engine, precision, device)
    assert (choice.engine, choice.form.file, choice.precision) == expected


def test_why_is_said() -> None:
    card = card_of(KERAS, ONNX, form("model.int8.onnx", 0.004))
    lost = "it loses 0.40 points of IoU (two scenes, their labels)"
    assert choose(card, "auto", "auto", WHOLE).why == f"the fastest here; {lost}"
    assert choose(card, "auto", "int8", PLAIN).why == f"the fastest here of what was asked for; {lost}"
    assert choose(card, "keras", "float32", PLAIN).why == "as asked for"
    assert choose(card_of(ONNX), "auto", "auto", PLAIN).why == "what the model has"


@pytest.mark.parametrize(
    ("forms", "engine", "precision", "told"),
    [
        ((KERAS,), "onyx", "auto", r"^--engine onyx: no such engine.*did you mean.*onnx.*expected auto, keras, onnx"),
        (
            (KERAS,),
            "onnx",
            "auto",
            r"^--engine onnx: model net has model\.keras; expected .*; onnx computes model\.onnx$",
        ),
        (
            (KERAS, ONNX),
            "auto",
            "int8",
            r"^--precision int8: model net has .*; make an int8 form: tileseg model quantize",
        ),
        ((KERAS, ONNX), "onnx", "bfloat16", r"^--engine onnx --precision bfloat16: model net has "),
    ],
)
def test_what_is_not_there_is_told_with_the_remedy(
    forms: tuple[Form, ...], engine: str, precision: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        choose(card_of(*forms), engine, precision, PLAIN)


def test_a_file_of_no_engine_is_told() -> None:
    with pytest.raises(InputError, match=r"model net, model\.dll: no engine computes such a model; expected model\.k"):
        choose(card_of(form("model.dll")), "auto", "auto", PLAIN)


def test_an_engine_whose_package_is_missing_is_passed_over_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EngineKind("nowhere:open", (".keras",), {"float32": 9.0}, {}, package="no_such_package", extra="swift")
    monkeypatch.setitem(ENGINES, "swift", kind)
    assert choose(card_of(KERAS), "auto", "auto", PLAIN).engine == "keras"
    with pytest.raises(UsageError, match=r'swift needs no_such_package, .* pip install "tileseg\[swift\]"'):
        choose(card_of(KERAS), "swift", "auto", PLAIN)
