"""ONNX Runtime on a GPU, as far as a processor can show it: what goes in and out, what is asked for, what is refused.

Binding, page-locked arrays and graphs that take pixels are ONNX Runtime's own, on its processor's provider.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fakes import smooth_noise, write_scene
from nets import Net

from tileseg import RunSpec, run
from tileseg.card import Form, ModelCard, Scaling
from tileseg.engine import kinds
from tileseg.engine.choice import Device, choose
from tileseg.engine.host import HostArrays
from tileseg.engine.kinds import ENGINES
from tileseg.engine.onnx import OnnxNetwork, open_onnx
from tileseg.engine.onnx_gpu import OnnxGpuNetwork, open_tensorrt
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.engine.protocol import TakesPixels, WindowSpec
from tileseg.errors import InputError, UsageError
from tileseg.mosaic import Mosaic
from tileseg.nn import onnx_device
from tileseg.nn.cuda import device_count, page_locked
from tileseg.nn.folder import load_card
from tileseg.nn.onnx_bundle import load_graph
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.onnx_device import DeviceSession, Provider, cuda, is_out_of_memory, memory_limit, tensorrt
from tileseg.nn.onnx_pixels import with_pixels
from tileseg.nn.onnx_session import Session
from tileseg.tta import Flip, View
from tileseg.window import Window

if TYPE_CHECKING:
    import onnx

CPU = Provider("the processor", (("CPUExecutionProvider", {}),), "cpu", "", np.zeros)
SCALINGS = [
    Scaling(divisor=255, mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.1)),
    Scaling(divisor=255, mean=(0.4,)),
    Scaling(kind="window", center=90, width=100, mean=(0.25,)),
]
GPU = Device(gpu=True, precision="bfloat16", flags=frozenset({"avx512_vnni"}))


@pytest.fixture
def network(model: Path) -> OnnxGpuNetwork:
    """The tiny network as a GPU would have it."""
    card = load_card(model)
    return OnnxGpuNetwork(load_graph(model, card), card, CPU, 1)


@pytest.fixture
def plain(model: Path) -> OnnxNetwork:
    card = load_card(model)
    return OnnxNetwork(load_graph(model, card), card, 1)


@pytest.mark.parametrize("scaling", SCALINGS, ids=["bands", "one", "window"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_pixels_that_are_scaled_in_the_graph_are_the_same_to_the_bit(network, plain, scaling, dtype) -> None:
    pixels = (smooth_noise(80, 112, 3).astype(np.float64) * 1.37).astype(dtype)[None]
    spec = PredictorSpec((64, 96), 8, (View(),), scaling, halo=8)
    np.testing.assert_array_equal(Predictor(network, spec)(pixels), Predictor(plain, spec)(pixels))


@pytest.mark.parametrize("views", [(View(flip=Flip(rows=True)),), (View(), View(flip=Flip(cols=True, transpose=True)))])
@pytest.mark.parametrize("output", ["float16", "float32"])
def test_other_views_and_types_of_logits_too(network, plain, views, output) -> None:
    pixels = smooth_noise(80, 112, 3)[None]
    spec = PredictorSpec((64, 96), 8, views, SCALINGS[0], halo=8, output=output)
    found = Predictor(network, spec)(pixels)
    assert found.dtype == output
    np.testing.assert_array_equal(found, Predictor(plain, spec)(pixels))


def test_a_batch_and_a_second_call_do_not_write_over_what_was_given(network, plain) -> None:
    spec = PredictorSpec((64, 96), 8, (View(),), SCALINGS[0], halo=8, batch=2, output="float32")
    pixels = np.stack([smooth_noise(80, 112, 3, seed) for seed in range(4)])
    predictor = Predictor(network, spec)
    found = np.concatenate([predictor(pixels[:2]), predictor(pixels[2:])])
    np.testing.assert_array_equal(found, np.concatenate([Predictor(plain, spec)(one[None]) for one in pixels]))


def scaled_by(weights: list[float]) -> onnx.ModelProto:
    """A graph for a window of 1 x 4 pixels of one band, whose maps are its weights times the pixel."""
    net = Net(1, channels_last=True, size=(1, 4))
    model = net.model(net("Mul", "image", np.array(weights, np.float32).reshape(1, 1, 4, 1)))
    for part in (model.graph.node[0].input, model.graph.node[0].output):
        for slot, name in enumerate(part):
            part[slot] = {"image": "tileseg_image", model.graph.output[0].name: "tileseg_map"}.get(name, name)
    model.graph.input[0].name, model.graph.output[0].name = "tileseg_image", "tileseg_map"
    return model


def test_what_is_finite_stays_finite_in_float16_and_nothing_else() -> None:
    model = with_pixels(scaled_by([1e6, -np.inf, np.nan, 1.0]), Scaling(), "float32", largest_half=6e4)
    found = DeviceSession(model, CPU)(np.full((1, 1, 4, 1), 2.0003, np.float32))
    assert found.dtype == np.float16
    assert found.shape == (1, 1, 1, 4)
    np.testing.assert_array_equal(found.ravel(), np.array([6e4, -np.inf, np.nan, 2.0003], np.float16))


def test_bytes_go_in_and_halves_come_back(network, monkeypatch) -> None:
    made: list[np.ndarray] = []

    def lock(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        made.append(np.zeros(shape, dtype))
        return made[-1]

    monkeypatch.setattr(network, "_provider", replace(CPU, lock=lock))
    spec = PredictorSpec((64, 96), 8, (View(),), SCALINGS[0], halo=8)
    Predictor(network, spec)(smooth_noise(80, 112, 3)[None])
    assert [(one.dtype.name, one.shape) for one in made] == [
        ("uint8", (1, 80, 112, 3)), ("float16", (1, 3, 64, 96)),
    ]  # fmt: skip


def test_float16_is_near_float32(network, plain) -> None:
    image = np.random.default_rng(3).normal(size=(1, 80, 112, 3)).astype(np.float32)
    whole = plain.engine(WindowSpec(80, 112, 8, 1, "float32"))(image)
    half = network.engine(WindowSpec(80, 112, 8, 1, "float16"))(image)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.02 * whole.std()


def test_a_run_by_it_gives_the_same_bytes(model, tmp_path, monkeypatch) -> None:
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(130, 180, 3))
    options = {"workers": 0, "engine": "onnx", "precision": "float32", "block": 64}
    run(RunSpec(scene=scene, model=str(model), out=tmp_path / "plain", **options))
    opened = []

    def open_gpu(folder: Path, card: ModelCard, threads: int) -> OnnxGpuNetwork:
        opened.append(OnnxGpuNetwork(load_graph(folder, card), card, CPU, threads))
        return opened[-1]

    monkeypatch.setattr("tileseg.run.block._loaded", None)
    monkeypatch.setattr("tileseg.engine.onnx.open_onnx", open_gpu)
    run(RunSpec(scene=scene, model=str(model), out=tmp_path / "gpu", **options))
    assert len(opened) == 1
    whole = Window(0, 0, 130, 180)
    for read in ("read_labels", "read_logits"):
        one, other = (getattr(Mosaic(tmp_path / name / "mosaic.zarr"), read)(whole) for name in ("plain", "gpu"))
        np.testing.assert_array_equal(one, other)


def test_engines_of_the_processor_take_no_pixels(network, plain) -> None:
    assert isinstance(network, TakesPixels)
    assert not isinstance(plain, TakesPixels)
    assert isinstance(network.arrays, HostArrays)


# --- What is asked for --------------------------------------------------------------------------------------------


def test_float32_is_whole_and_the_same_the_next_time(monkeypatch) -> None:
    (name, options), rest = cuda(3 << 30).listed
    assert (name, rest[0]) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_algo_search"] != "EXHAUSTIVE"  # a race, which another algorithm may win the next time
    assert options["gpu_mem_limit"] == str(3 << 30)
    assert "gpu_mem_limit" not in cuda().listed[0][1]
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    DeviceSession(scaled_by([1, 2, 3, 4]), CPU)
    assert onnx_device.os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_tensorrt_keeps_its_engines_in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    provider = tensorrt(5 << 30)
    assert [name for name, _ in provider.listed] == [
        "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider",
    ]  # fmt: skip
    options = provider.listed[0][1]
    folder = tmp_path / "tileseg" / "tensorrt"
    assert folder.is_dir()
    assert (options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == ("1", str(folder))
    assert options["trt_max_workspace_size"] == provider.listed[1][1]["gpu_mem_limit"] == str(5 << 30)
    (tmp_path / "file").touch()
    assert tensorrt(cache=tmp_path / "file" / "x").listed[0][1]["trt_engine_cache_enable"] == "0"


def test_the_limit_of_memory_is_a_size(monkeypatch) -> None:
    monkeypatch.delenv("TILESEG_DEVICE_MEMORY", raising=False)
    assert memory_limit() is None
    monkeypatch.setenv("TILESEG_DEVICE_MEMORY", "8GiB")
    assert memory_limit() == 8 << 30
    for wrong in ("much", "-1", "0"):
        monkeypatch.setenv("TILESEG_DEVICE_MEMORY", wrong)
        with pytest.raises(UsageError, match=f"TILESEG_DEVICE_MEMORY={wrong}: expected a size such as 8GiB"):
            memory_limit()


@pytest.mark.parametrize(
    "said",
    [
        "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 939524096",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size);",
        "CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED CUDNN_STATUS_ALLOC_FAILED",
        "Available memory of 1024 is smaller than requested bytes of 4096",
    ],
)
def test_lack_of_memory_is_understood(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("CUDA failure 700: an illegal memory access was encountered"))


# --- What is there ------------------------------------------------------------------------------------------------


def card_of(*files: str) -> ModelCard:
    forms = tuple(Form(file=file, sha256="0" * 64, precision="int8" if "int8" in file else "float32") for file in files)
    from tileseg.card import ClassInfo

    return ModelCard(
        name="net", bands=("r",), classes=(ClassInfo(name="a", color="#000000"), ClassInfo(name="b", color="#111111")),
        output_channels=2, stride=1, radius=1, flops_per_pixel=1, activation_bytes_per_pixel=1, parameters=1,
        forms=forms,
    )  # fmt: skip


@pytest.fixture
def for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if onnxruntime-gpu were installed, which brings both providers."""
    (tmp_path / "capi").mkdir()
    for name in ("cuda", "tensorrt"):
        (tmp_path / "capi" / f"libonnxruntime_providers_{name}.so").touch()
    found = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})()
    find = kinds.importlib.util.find_spec
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda name: found if name == "onnxruntime" else find(name))


def test_the_package_for_the_processor_uses_no_gpu() -> None:
    assert not ENGINES["onnx"].on_gpu()
    assert not ENGINES["onnx"].missing
    assert ENGINES["tensorrt"].missing
    choice = choose(card_of("model.keras", "model.onnx"), "auto", "float32", GPU)
    assert choice.engine == "keras"
    with pytest.raises(UsageError, match=r"tensorrt needs a part of onnxruntime .* pip install 'onnxruntime-gpu"):
        choose(card_of("model.onnx"), "tensorrt", "auto", GPU)


def test_with_the_package_for_gpus_onnx_files_are_computed_there(for_gpus) -> None:
    assert ENGINES["onnx"].on_gpu("float16")
    assert not ENGINES["tensorrt"].missing
    both = card_of("model.keras", "model.onnx", "model.int8.onnx")
    for engine, precision, expected in [
        ("auto", "auto", ("keras", "bfloat16")),
        ("onnx", "auto", ("onnx", "float32")),
        ("onnx", "float16", ("onnx", "float16")),
        ("tensorrt", "auto", ("tensorrt", "float32")),
        ("tensorrt", "float16", ("tensorrt", "float16")),
        ("onnx", "int8", ("onnx", "int8")),
    ]:
        choice = choose(both, engine, precision, GPU)
        assert (choice.engine, choice.precision) == expected
    assert choose(card_of("model.onnx"), "auto", "auto", GPU).engine == "onnx"


def test_tensorrt_without_a_gpu_is_refused(for_gpus) -> None:
    with pytest.raises(UsageError, match="--engine tensorrt: needs an NVIDIA GPU, and tileseg sees none here"):
        choose(card_of("model.onnx"), "tensorrt", "auto", replace(GPU, gpu=False))
    with pytest.raises(UsageError, match="--engine onnx --precision float16: model net has"):
        choose(card_of("model.onnx"), "onnx", "float16", replace(GPU, gpu=False))


def test_a_worker_without_a_gpu_says_so(plain) -> None:
    with pytest.raises(InputError, match="computes float16 on GPUs alone, and sees none here"):
        plain.engine(WindowSpec(80, 112, 8, 1, "float16"))


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_provider_that_is_missing_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    provider = cuda() if name == "cuda" else tensorrt(cache=tmp_path / "cache")
    with pytest.raises(UsageError, match=f"does not load {provider.title} here: it was built without; ") as told:
        DeviceSession(scaled_by([1, 2, 3, 4]), provider)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("how", ["left out", "refused"])
def test_the_processor_does_not_compute_in_its_place_without_a_word(monkeypatch, how: str) -> None:
    """Where CUDA's libraries are not found, ONNX Runtime goes on without, or says so."""
    make = onnx_device.onnxruntime.InferenceSession

    def session(model: bytes, options: object, providers: list, enable_fallback: int) -> object:
        assert enable_fallback == 0  # it would print, and compute by the processor
        if how == "refused":
            raise RuntimeError("Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 12.*")
        return make(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnx_device.onnxruntime, "InferenceSession", session)
    known = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnx_device.onnxruntime, "get_available_providers", lambda: known)
    with pytest.raises(UsageError, match=r"does not load CUDA here: .*pip install 'onnxruntime-gpu") as told:
        DeviceSession(scaled_by([1, 2, 3, 4]), cuda())
    assert "\n" not in str(told.value)


def test_a_graph_that_it_does_not_take_is_told(monkeypatch) -> None:
    model = scaled_by([1, 2, 3, 4])
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(InputError, match=r"ONNX Runtime does not run it: .*Nonsense"):
        DeviceSession(model, CPU)


@pytest.mark.parametrize(
    ("known", "devices", "quantised", "expected"),
    [(True, 1, False, True), (True, 0, False, False), (False, 1, False, False), (True, 1, True, False)],
)
def test_the_gpu_is_taken_where_there_is_one_and_the_graph_is_for_it(
    model, monkeypatch, known: bool, devices: int, quantised: bool, expected: bool
) -> None:
    monkeypatch.setattr("tileseg.engine.onnx.built_with", lambda name: known)
    monkeypatch.setattr("tileseg.engine.onnx.device_count", lambda: devices)
    monkeypatch.setattr("tileseg.nn.onnx_graph.OnnxGraph.quantised", quantised)
    assert isinstance(open_onnx(model, load_card(model), 1), OnnxGpuNetwork) == expected


def test_tensorrt_opens_a_form(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = open_tensorrt(model, load_card(model), 1)
    with pytest.raises(UsageError, match="does not load TensorRT here"):
        network.engine(WindowSpec(80, 112, 8, 1, "float32"))


# --- CUDA's driver ------------------------------------------------------------------------------------------------


class Driver:
    """CUDA's driver with some devices."""

    def __init__(self, devices: int = 1, *, locks: bool = True) -> None:
        self.devices, self.locks = devices, locks
        self.locked: dict[int, int] = {}
        self.cuInit = lambda flags: 0 if devices else 100  # CUDA_ERROR_NO_DEVICE
        self.cuDeviceGetCount = lambda count: self._give(count, devices)
        self.cuDevicePrimaryCtxRetain = lambda context, device: self._give(context, 77)
        self.cuCtxSetCurrent = lambda context: 0 if context.value == 77 else 201
        self.cuMemHostRegister_v2 = self._lock
        self.cuMemHostUnregister = lambda address: self.locked.pop(address.value) and 0

    def _give(self, place: object, value: int) -> int:
        place._obj.value = value
        return 0

    def _lock(self, address: ctypes.c_void_p, size: ctypes.c_size_t, flags: ctypes.c_uint) -> int:
        if self.locks:
            self.locked[address.value] = size.value
        return 0 if self.locks else 2


def nothing(name: str) -> object:
    raise OSError(name)


@pytest.mark.parametrize(("load", "expected"), [(nothing, 0), (lambda name: Driver(0), 0), (lambda name: Driver(3), 3)])
def test_devices_are_counted_by_the_driver(load: Callable[[str], Any], expected: int) -> None:
    assert device_count(load) == expected


def test_memory_is_locked_as_long_as_the_array_lives() -> None:
    driver = Driver()
    array = page_locked((3, 5), np.uint16, lambda name: driver)
    assert driver.locked == {array.ctypes.data: 30}
    view = array[1:]
    del array
    assert driver.locked
    assert not view.any()
    del view
    assert driver.locked == {}


@pytest.mark.parametrize("load", [nothing, lambda name: Driver(locks=False), lambda name: Driver(0)])
def test_memory_that_cannot_be_locked_is_memory_all_the_same(load: Callable[[str], Any]) -> None:
    array = page_locked((3, 5), np.float16, load)
    assert (array.shape, array.dtype, array.any()) == ((3, 5), np.float16, False)


def test_the_session_of_a_device_gives_what_that_of_the_processor_gives(model) -> None:
    graph = cropped(load_graph(model, load_card(model)), 48, 64, 8)
    image = np.random.default_rng(1).normal(size=(2, 48, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(DeviceSession(graph, CPU)(image), Session(graph)(image))
