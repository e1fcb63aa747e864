"""ONNX networks run: architectures that are not ours, their tiles against the whole, and without Keras."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fakes import CLASSES, smooth_noise, write_scene
from nets import Net
from oracle import resample

from tileseg import RunSpec, run
from tileseg.card import ModelCard, Scaling
from tileseg.engine.onnx import OnnxNetwork
from tileseg.engine.proof import TOLERANCE, prove
from tileseg.engine.protocol import WindowSpec
from tileseg.engine.registry import open_network
from tileseg.errors import UsageError
from tileseg.mosaic import Mosaic
from tileseg.nn.description import Description
from tileseg.nn.packing import pack
from tileseg.window import Window

ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def block(net: Net, x: str, given: int, made: int, **options: object) -> str:
    return net("Relu", net.norm(net.conv(x, given, made, **options), made))


def resnet_unet(net: Net) -> str:
    """As segmentation-models-pytorch builds it: strides in convolutions, sums, nearest neighbours on the way up."""
    one = block(net, "image", 3, 6, size=7, strides=[2, 2])
    x = net("MaxPool", one, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    two = net("Relu", net("Add", x, net.norm(net.conv(block(net, x, 6, 6), 6, 6), 6)))
    inner = net.norm(net.conv(block(net, two, 6, 10, strides=[2, 2]), 10, 10), 10)
    x = net("Relu", net("Add", inner, net.norm(net.conv(two, 6, 10, 1, strides=[2, 2]), 10)))
    x = block(net, net("Concat", net.up(x, **ASYMMETRIC), two, axis=1), 16, 8)
    x = block(net, net("Concat", net.up(x, **ASYMMETRIC), one, axis=1), 14, 6)
    return net.conv(net.up(x, **ASYMMETRIC), 6, 3)


def pyramid(net: Net) -> str:
    """FPN: sums of levels, enlarged by nearest neighbours, heads enlarged bilinearly to one size."""
    two = block(net, "image", 3, 6, strides=[2, 2])
    four = block(net, two, 6, 6, strides=[2, 2])
    eight = block(net, four, 6, 6, strides=[2, 2])
    top = net.conv(eight, 6, 4, 1)
    middle = net("Add", net.up(top, **ASYMMETRIC), net.conv(four, 6, 4, 1))
    joined = net("Add", net.up(block(net, top, 4, 4), 2, "linear"), block(net, middle, 4, 4))
    return net.up(net.conv(joined, 4, 3, 1), 4, "linear")


def inverted(net: Net) -> str:
    """MobileNet's blocks, dilated as in DeepLab: depthwise, clipped, joined at several rates, enlarged four times."""
    x = net("Clip", net.norm(net.conv("image", 3, 6, strides=[2, 2]), 6), np.float32(0), np.float32(6))
    deep = net.conv(net("HardSwish", net.conv(x, 6, 12, 1)), 12, 12, 5, group=12, strides=[2, 2])
    rates = [net.conv(deep, 12, 4, pads=[r] * 4, dilations=[r, r]) for r in (1, 2, 3)]
    return net.up(net.conv(net("Concat", *rates, axis=1), 12, 3, 1), 4, "linear")


def pooled_pyramid(net: Net) -> str:
    """PSPNet: what the mean of the window is, spread over it."""
    x = block(net, "image", 3, 6, strides=[2, 2])
    mean = net.conv(net("GlobalAveragePool", x), 6, 4, 1)
    sides = net("Slice", net("Shape", x), np.int64([2]), np.int64([4]))
    first = net("Slice", net("Shape", mean), np.int64([0]), np.int64([2]))
    spread = net("Resize", mean, None, None, net("Concat", first, sides, axis=0), mode="linear")
    return net.up(net.conv(net("Concat", x, spread, axis=1), 10, 3), 2, "linear")


def attentive(net: Net) -> str:
    """A block of a vision transformer: patches, attention among all of them, patches again."""
    patches = net.conv("image", 3, 8, 4, strides=[4, 4], pads=[0] * 4)
    shape = net("Shape", patches)
    tokens = net("Transpose", net("Reshape", patches, np.int64([0, 8, -1])), perm=[0, 2, 1])
    query, key, value = (net("MatMul", tokens, net.random(8, 8)) for _ in range(3))
    scores = net("Softmax", net("MatMul", query, net("Transpose", key, perm=[0, 2, 1])), axis=-1)
    seen = net("Add", tokens, net("MatMul", scores, value))
    back = net("Reshape", net("Transpose", seen, perm=[0, 2, 1]), shape)
    return net("DepthToSpace", net.conv(back, 8, 48, 1), blocksize=4)


def folder_of(path: Path, build: Callable[[Net], str], **options: object) -> tuple[Path, ModelCard]:
    net = Net(**options)
    scaling = Scaling(divisor=255, mean=(0.4,), std=(0.25,))
    described = Description(name="net", bands=("red", "green", "blue"), classes=CLASSES, scaling=scaling)
    card = pack(net.save(path / "net.onnx", build(net)), path / "net", described)
    return path / "net", card


@pytest.mark.parametrize(("build", "stride"), [(resnet_unet, 8), (pyramid, 8), (inverted, 4)])
def test_tiles_of_networks_that_are_not_ours_equal_the_whole(
    tmp_path: Path, build: Callable[[Net], str], stride: int
) -> None:
    folder, card = folder_of(tmp_path, build)
    assert (card.stride, card.local) == (stride, True)
    network = open_network(folder, card, 1)
    assert isinstance(network, OnnxNetwork)
    proof = prove(network)
    assert proof.holds
    assert max(proof.relative, proof.far) <= TOLERANCE


@pytest.mark.parametrize(("build", "blamed"), [(pooled_pyramid, ["GlobalAveragePool"]), (attentive, ["Reshape"])])
def test_networks_that_look_at_the_whole_window_are_known_and_still_run(
    tmp_path: Path, build: Callable[[Net], str], blamed: list[str]
) -> None:
    folder, card = folder_of(tmp_path, build)
    assert not card.local
    assert [title.split(" (")[1].rstrip(")") for title in card.nonlocal_layers] == blamed
    image = np.random.default_rng(0).normal(size=(2, 48, 64, 3)).astype(np.float32)
    network = open_network(folder, card, 1)
    whole = network.engine(WindowSpec(48, 64, 0, 2, "float32"))(image)
    part = network.engine(WindowSpec(48, 64, 8, 2, "float32"))(image)
    assert np.abs(whole[:, 8:-8, 8:-8] - part).max() <= 1e-5 * whole.std()
    assert np.abs(network.plain(image) - whole).max() <= 1e-4 * whole.std()


@pytest.mark.parametrize("scales", [(Fraction(1),), (Fraction(1, 2), Fraction(1), Fraction(3, 2))])
def test_a_run_equals_the_network_on_the_whole_scene(tmp_path: Path, scales: tuple[Fraction, ...]) -> None:
    folder, card = folder_of(tmp_path, pyramid)
    pixels = smooth_noise(91, 118, 3)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    run(
        RunSpec(
            scene=scene,
            model=str(folder),
            out=tmp_path / "out",
            workers=0,
            block=64,
            scales=scales,
            precision="float32",
        )
    )
    found = Mosaic(tmp_path / "out" / "mosaic.zarr").read_logits(Window(0, 0, 91, 118)).astype(np.float32)
    align = 2 * card.stride
    margin = 4 * -(-card.halo // align) * align
    rows, cols = (-(-side // align) * align - side for side in pixels.shape[:2])
    image = np.pad(pixels, ((margin, margin + rows), (margin, margin + cols), (0, 0)), mode="reflect")
    image = ((image / 255 - 0.4) / 0.25).astype(np.float32)
    network = open_network(folder, card, 1)
    total = np.zeros((3, 91, 118))
    for scale in scales:
        logits = network.plain(resample(image, scale)[None])[0]
        back = resample(logits, 1 / scale)
        total += np.moveaxis(back[margin : margin + 91, margin : margin + 118], -1, 0) / len(scales)
    assert np.abs(found - total).max() <= 1e-3 * np.abs(total).max()  # logits are kept as float16


def test_another_precision_is_refused_before_the_run(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, pyramid)
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3))
    with pytest.raises(
        UsageError,
        match=r"--engine onnx --precision bfloat16: model net has model\.onnx; expected auto, or .*onnx in float32",
    ):
        run(RunSpec(scene=scene, model=str(folder), out=tmp_path / "out", engine="onnx", precision="bfloat16"))


def test_a_graph_runs_without_keras(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, pyramid)
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3))
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tileseg import RunSpec, run\n"
        "from tileseg.engine.proof import prove\n"
        "from tileseg.engine.registry import open_network\n"
        "from tileseg.nn.folder import load_card\n"
        "scene, model, out = sys.argv[1:]\n"
        "run(RunSpec(scene=scene, model=model, out=out, workers=0))\n"
        "prove(open_network(Path(model), load_card(Path(model)), 1))\n"
        "from typer.testing import CliRunner\n"
        "from tileseg.cli.model import app\n"
        "classes = 'a:#000000,b:#111111,c:#222222'\n"
        "for words in (['pack', str(Path(model).parent / 'net.onnx'), out + '-model', '--classes', classes],\n"
        "              ['info', model], ['check', model]):\n"
        "    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0\n"
        "print(json.dumps([name for name in ('keras', 'tensorflow', 'onnxruntime') if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, scene, folder, tmp_path / "out"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["onnxruntime"]
