"""A block against the network on the whole scene, and what happens when the network fails."""

import gc
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from fakes import CLASSES, smooth_noise, write_scene
from oracle import whole_scene_logits
from plans import planned

from tileseg.card import Scaling
from tileseg.engine import tiled
from tileseg.engine.predictor import Predictor
from tileseg.engine.registry import open_network
from tileseg.engine.tiled import DeviceMemory
from tileseg.errors import InputError
from tileseg.mosaic import Mosaic, create_mosaic
from tileseg.nn.folder import load_card, save_card
from tileseg.plan import Plan
from tileseg.run import block as segment
from tileseg.run.block import Job, NonFiniteLogits, fill_of, segment_block
from tileseg.run.ledger import Ledger
from tileseg.source.scene import open_scene
from tileseg.tta import View
from tileseg.window import Window

HEIGHT, WIDTH = 151, 203


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(HEIGHT, WIDTH, 3))


def job(folder: Path, scene: Path, model: Path, **options) -> Job:
    """A run of one process over a scene, with float32 logits as near as float16 keeps them."""
    card = load_card(model)
    opened = open_scene(scene, expected=len(card.bands))
    form = card.forms[0].file
    of_network = {"engine": "keras" if form.endswith(".keras") else "onnx", "form": form}
    plan = planned((opened.grid.height, opened.grid.width), card, workers=0, threads=1, **of_network, **options)
    mosaic = create_mosaic(folder / "m.zarr", opened.grid, plan.block, CLASSES, "logits", {})
    return Job(
        key=str(folder), scene=opened, plan=plan, model=model, scaling=card.scaling, merge="logits", mosaic=mosaic,
        ledger=Ledger(folder / ".state"), aoi=None, ignore=frozenset(), connectivity=4, compute_threads=2,
    )  # fmt: skip


def run_all(job: Job) -> None:
    for block in job.plan:
        segment_block(job, block.index)


def expected(scene: Path, model: Path, plan: Plan) -> np.ndarray:
    return oracle(scene, model, plan.views)


@cache
def oracle(scene: Path, model: Path, views: tuple[View, ...]) -> np.ndarray:
    card = load_card(model)
    network = open_network(model, card, 2, engine="onnx" if (model / "model.onnx").exists() else "keras")
    pixels, _ = open_scene(scene, expected=3).read(Window(0, 0, HEIGHT, WIDTH))
    return whole_scene_logits(network.plain, card, card.scaling, pixels, views)


def assert_same(mosaic: Mosaic, whole: np.ndarray) -> None:
    """Equal to 1e-5 of the logits' deviation before the mosaic rounds to float16, which is coarser."""
    found = mosaic.read_logits(Window(0, 0, HEIGHT, WIDTH))
    apart = np.abs(found.astype(np.float32) - whole)
    half = np.spacing(np.abs(whole).astype(np.float16)).astype(np.float32) / 2
    assert (apart <= half + 1e-5 * whole.std()).all()


@pytest.mark.parametrize("options", [{"block": 64}, {"block": 128, "window": 96, "batch": 3}, {}])
@pytest.mark.parametrize(
    ("scales", "flips"),
    [((Fraction(1),), "none"), ((Fraction(1, 2), Fraction(1), Fraction(3, 2)), "d4"), ((Fraction(3, 4),), "hv")],
)
def test_blocks_equal_the_whole_scene(tmp_path, scene, model, options, scales, flips) -> None:
    if options.get("window") and len(scales) > 1:
        options = {**options, "window": 128}
    made = job(tmp_path, scene, model, scales=scales, flips=flips, **options)
    run_all(made)
    assert_same(made.mosaic, expected(scene, model, made.plan))
    assert made.ledger.done() == set(range(made.plan.blocks))


def test_blocks_that_keras_computes_equal_the_whole_scene(tmp_path, scene, keras_model) -> None:
    made = job(tmp_path, scene, keras_model, scales=(Fraction(3, 4),), flips="h", block=64)
    run_all(made)
    assert_same(made.mosaic, expected(scene, keras_model, made.plan))


@pytest.mark.parametrize("stitch", ["hann", "gaussian"])
def test_blended_blocks_do_not_depend_on_the_block_size(tmp_path, scene, model, stitch) -> None:
    mosaics = []
    for block in (64, 128):
        made = job(tmp_path / str(block), scene, model, stitch=stitch, window=64, overlap=0.5, block=block)
        run_all(made)
        mosaics.append(made.mosaic.read_logits(Window(0, 0, HEIGHT, WIDTH)))
    np.testing.assert_array_equal(*mosaics)
    whole = expected(scene, model, made.plan)
    assert np.abs(mosaics[0] - whole).max() < whole.std()  # approximate, but no nonsense


def test_a_finished_block_is_not_computed_again(tmp_path, scene, model, monkeypatch) -> None:
    made = job(tmp_path, scene, model, block=64)
    first = segment_block(made, 3)
    monkeypatch.delattr("tileseg.run.block.open_network")
    assert segment_block(made, 3) == first


@pytest.mark.parametrize("block", [64, 128])
def test_the_device_is_not_held_while_pixels_are_cut_and_logits_placed(
    tmp_path, scene, model, monkeypatch, block
) -> None:
    """The first window is ready when a block gets the device, and the last one's logits wait until it is left."""
    seen: list[str] = []

    def told(name: str, function: Callable) -> Callable:
        def call(*given: object) -> object:
            seen.append(name)
            return function(*given)

        return call

    monkeypatch.setattr(tiled, "_cut", told("cut", tiled._cut))
    monkeypatch.setattr(tiled.Pieces, "place", told("placed", tiled.Pieces.place))
    for name in ("take", "leave"):
        monkeypatch.setattr(segment._FLIGHT, name, told(name, getattr(segment._FLIGHT, name)))
    made = job(tmp_path, scene, model, block=block, batch=1)
    segment_block(made, 0)
    windows = len(made.plan.tiles(made.plan[0].core))
    assert windows == block // 64
    assert seen == ["cut", "take", *["cut", "placed"] * (windows - 1), "leave", "placed"]


class Starved:
    """A network on a device that holds no more than some pixels, and says so as its engine does."""

    limit = 0
    error: Callable[[], Exception] = partial(RuntimeError, "Failed to allocate memory for requested buffer")

    def __init__(self, *args: object, **options) -> None:
        self._inner = Predictor(*args, **options)

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if tiles[..., 0].size > Starved.limit:
            raise Starved.error()
        return self._inner(tiles)


@pytest.mark.parametrize("kind", ["model", "keras_model"])
def test_a_small_device_gets_smaller_batches_and_windows(tmp_path, scene, kind, request, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.engine.tiled.Predictor", Starved)
    if kind == "keras_model":
        from tileseg.nn.backend import OUT_OF_MEMORY

        monkeypatch.setattr(Starved, "error", partial(OUT_OF_MEMORY[0], None, None, "no memory left"))
    model = request.getfixturevalue(kind)
    made = job(tmp_path, scene, model, block=128, window=96, batch=4)
    Starved.limit = 70**2
    notes = segment_block(made, 0).notes
    assert [note.removeprefix("device out of memory: ").split()[0] for note in notes] == ["batch", "batch", "window"]
    record = segment_block(made, 1)
    assert record.notes == ()  # what fitted is remembered
    for index in range(2, made.plan.blocks):
        segment_block(made, index)
    assert_same(made.mosaic, expected(scene, model, made.plan))


def test_a_device_without_any_memory_is_told(tmp_path, scene, model, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.engine.tiled.Predictor", Starved)
    Starved.limit = 0
    made = job(tmp_path, scene, model, block=128)
    with pytest.raises(DeviceMemory, match="does not hold one window of 16x16"):
        segment_block(made, 0)
    assert made.ledger.done() == set()


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path, scene, model, monkeypatch) -> None:
    def broken(self: object, tiles: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory, says a layer that means something else")

    monkeypatch.setattr("tileseg.engine.predictor.Predictor.__call__", broken)
    with pytest.raises(RuntimeError, match="says a layer"):
        segment_block(job(tmp_path, scene, model, block=128), 0)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"stitch": "hann", "window": 64}, {"stitch": "hann", "window": 32}),
        ({"stitch": "hann", "window": 64}, {"stitch": "hann", "window": 64, "overlap": 0.25}),
        ({"stitch": "hann", "window": 64}, {"stitch": "gaussian", "window": 64}),
        ({"window": 96}, {"window": 64}),
        ({"window": 96}, {"window": 96, "scales": (Fraction(1, 2),)}),
    ],
)
def test_a_worker_that_lives_on_computes_with_the_sizes_of_the_run_at_hand(tmp_path, scene, model, first, then) -> None:
    """Two runs of one key, as when a folder is resumed with other sizes, in one process."""
    segment_block(replace(job(tmp_path / "first", scene, model, block=128, **first), key="same"), 0)
    lived = replace(job(tmp_path / "lived", scene, model, block=128, **then), key="same")
    segment_block(lived, 0)
    segment._loaded = None
    fresh = job(tmp_path / "fresh", scene, model, block=128, **then)
    segment_block(fresh, 0)
    core = Window(0, 0, 128, 128)
    np.testing.assert_array_equal(*(made.mosaic.read_logits(core) for made in (lived, fresh)))


def test_sizes_that_fit_are_remembered_for_the_same_sizes_only(tmp_path, scene, model, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.engine.tiled.Predictor", Starved)
    Starved.limit = 70**2
    large = {"block": 128, "window": 96, "batch": 1}
    assert segment_block(job(tmp_path / "1", scene, model, **large), 0).notes
    assert not segment_block(job(tmp_path / "2", scene, model, block=128, window=64, batch=1), 0).notes
    assert not segment_block(job(tmp_path / "3", scene, model, **large), 0).notes
    assert segment_block(job(tmp_path / "4", scene, model, **large, scales=(Fraction(3, 2),)), 0).notes


@pytest.mark.parametrize("options", [{"stitch": "hann"}, {"halo": 0}])
def test_windows_keep_their_size_where_seams_are_approximate(tmp_path, scene, model, monkeypatch, options) -> None:
    """Their size shows in the logits, which must not depend on the device."""
    monkeypatch.setattr("tileseg.engine.tiled.Predictor", Starved)
    Starved.limit = 50**2
    with pytest.raises(DeviceMemory, match="keep their size where seams are approximate"):
        segment_block(job(tmp_path, scene, model, block=128, window=64, **options), 0)


@pytest.mark.parametrize("field", ["scaling", "activation", "classes"])
def test_a_model_folder_whose_card_has_changed_is_refused(tmp_path, scene, model, field) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    made = job(tmp_path, scene, folder, block=64)
    card = load_card(folder)
    other = {"scaling": Scaling(divisor=9), "activation": "softmax", "classes": card.classes[::-1]}[field]
    save_card(card.model_copy(update={field: other}), folder)
    with pytest.raises(InputError, match="not the one that the run was planned with"):
        segment_block(made, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_fail_their_block_alone(tmp_path, scene, model, monkeypatch, value) -> None:
    call = Predictor.__call__

    def poisoned(self: Predictor, tiles: np.ndarray) -> np.ndarray:
        logits = call(self, tiles).copy()
        logits[0, 1, 7, 9] = value
        return logits

    made = job(tmp_path, scene, model, block=64)
    segment_block(made, 0)
    monkeypatch.setattr(Predictor, "__call__", poisoned)
    with pytest.raises(NonFiniteLogits, match="first at row 7, column 73"):
        segment_block(made, 1)
    assert made.ledger.done() == {0}
    assert np.isnan(made.mosaic.read_logits(Window(0, 64, 64, 64))).all()


@pytest.mark.parametrize("why", ["", "from another", "while another was handled"])
def test_a_block_that_fails_lets_its_arrays_go(tmp_path, scene, model, monkeypatch, why) -> None:
    """Dask keeps errors, with their tracebacks; what the frames hold would be missing at the next attempt."""
    held = []

    def inner(logits: np.ndarray) -> None:
        copied = logits.copy()
        held.append(weakref.ref(copied))
        raise ValueError

    def short(logits: np.ndarray, valid: np.ndarray, core: Window) -> None:
        held.append(weakref.ref(logits))
        if not why:
            raise MemoryError
        try:
            inner(logits)
        except ValueError as error:
            if why == "from another":
                raise MemoryError from error
            raise MemoryError  # noqa: B904 - the other way to chain errors

    monkeypatch.setattr(segment, "_check_finite", short)
    with pytest.raises(MemoryError) as kept:
        segment_block(job(tmp_path, scene, model, block=64), 0)
    gc.collect()
    assert kept.value.__traceback__ is not None
    assert [array() for array in held] == [None] * len(held)


def test_nodata_is_neither_computed_nor_labelled(tmp_path, model) -> None:
    pixels = smooth_noise(HEIGHT, WIDTH, 3)
    pixels[:, :100] = 0
    pixels[40:50, 150:160] = 0
    scene = write_scene(tmp_path / "nodata.tif", pixels, nodata=0)
    made = job(tmp_path, scene, model, block=64)
    records = [segment_block(made, block.index) for block in made.plan]
    valid = (pixels != 0).all(axis=2)
    assert [r.valid for r in records] == [int(valid[b.core.slices].sum()) for b in made.plan]
    assert records[0].valid == 0
    assert "network" not in records[0].seconds
    labels = made.mosaic.read_labels(Window(0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(labels == 255, ~valid)
    # A hole in the data changes its surroundings only as its fill does: the same fill, the same logits.
    filled = pixels.copy()
    filled[~valid] = np.array(fill_of(made.scaling, "uint8"), np.uint8)
    card = load_card(model)
    network = open_network(model, card, 2, engine="onnx" if (model / "model.onnx").exists() else "keras")
    whole = whole_scene_logits(network.plain, card, card.scaling, filled, made.plan.views)
    found = made.mosaic.read_logits(Window(0, 0, HEIGHT, WIDTH)).astype(np.float32)
    apart = np.abs(found - whole)[:, valid]
    assert (apart <= np.abs(whole[:, valid]) * 2**-10 + 1e-3).all()


def test_an_area_of_interest_clips_and_saves_work(tmp_path, scene, model) -> None:
    made = job(tmp_path, scene, model, block=64)

    class Corner:
        """Rows below 30 and columns from 70 to 90."""

        def touches(self, window: Window) -> bool:
            return window.intersection(Window(0, 70, 30, 20)) is not None

        def mask(self, window: Window) -> np.ndarray:
            inside = np.zeros((HEIGHT, WIDTH), bool)
            inside[:30, 70:90] = True
            return inside[window.slices]

    clipped = replace(made, aoi=Corner())
    records = [segment_block(clipped, block.index) for block in made.plan]
    assert [r.valid for r in records if r.valid] == [600]
    labels = made.mosaic.read_labels(Window(0, 0, HEIGHT, WIDTH))
    assert (labels[:30, 70:90] != 255).all()
    assert np.count_nonzero(labels != 255) == 600


class Rectangle:
    """An area of interest: the rows and columns of one window."""

    def __init__(self, inside: Window) -> None:
        self.inside = inside

    def touches(self, window: Window) -> bool:
        return window.intersection(self.inside) is not None

    def mask(self, window: Window) -> np.ndarray:
        whole = np.zeros((HEIGHT, WIDTH), bool)
        whole[self.inside.slices] = True
        return whole[window.slices]


@pytest.mark.parametrize(
    ("where", "starved", "stitch"),
    [
        ("nodata", False, "exact"),
        ("outside the area", False, "exact"),
        ("both", True, "exact"),
        ("nodata", True, "exact"),
        ("both", False, "hann"),
        ("outside the area", False, "gaussian"),
    ],
)
def test_windows_without_data_are_skipped_and_the_others_are_as_ever(
    tmp_path, model, monkeypatch, where, starved, stitch
) -> None:
    """Blocks of several windows, some with no valid pixel, against a run that computes every window."""
    pixels = smooth_noise(HEIGHT, WIDTH, 3)
    if where != "outside the area":
        pixels[:70, 40:] = 0
        pixels[100:, :90] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    sizes = {"block": 128, "window": 64, "batch": 1, "stitch": stitch}
    if starved:
        sizes |= {"window": 96}
        monkeypatch.setattr("tileseg.engine.tiled.Predictor", Starved)
        Starved.limit = 70**2
    aoi = None if where == "nodata" else Rectangle(Window(60, 20, 35, 150))
    made = replace(job(tmp_path / "skipping", scene, model, **sizes), aoi=aoi)
    skipped = []

    def any_valid(valid: np.ndarray, tile: Window, core: Window) -> bool:
        skipped.append(not wanted(valid, tile, core))
        return not skipped[-1]

    wanted = tiled._any_valid
    monkeypatch.setattr(tiled, "_any_valid", any_valid)
    records = [segment_block(made, block.index) for block in made.plan]
    assert any(skipped)
    whole = replace(job(tmp_path / "whole", scene, model, **sizes), aoi=aoi)
    monkeypatch.setattr(tiled, "_any_valid", lambda *_: True)
    segment._loaded = None
    run_all(whole)
    everywhere = Window(0, 0, HEIGHT, WIDTH)
    valid = (pixels != 0).all(axis=2)
    if aoi is not None:
        valid &= aoi.mask(everywhere)
    assert sum(record.valid for record in records) == np.count_nonzero(valid)
    np.testing.assert_array_equal(made.mosaic.read_labels(everywhere) == 255, ~valid)
    for read in ("read_labels", "read_logits"):
        np.testing.assert_array_equal(*(getattr(one.mosaic, read)(everywhere) for one in (made, whole)))


def test_a_network_that_gives_no_number_where_there_is_no_data_is_no_failure(tmp_path, model, monkeypatch) -> None:
    call = Predictor.__call__

    def poisoned(self: Predictor, tiles: np.ndarray) -> np.ndarray:
        logits = call(self, tiles).copy()
        logits[:, :, 7, 9] = np.inf
        return logits

    pixels = smooth_noise(HEIGHT, WIDTH, 3)
    pixels[7, 9] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    monkeypatch.setattr(Predictor, "__call__", poisoned)
    made = job(tmp_path, scene, model, block=64)
    assert segment_block(made, 0).valid == 64 * 64 - 1
    with pytest.raises(NonFiniteLogits, match="first at row 7, column 73"):
        segment_block(made, 1)


def test_fill_is_what_scales_to_zero() -> None:
    scaling = Scaling(mean=(0.4, 2.0), divisor=255.0, std=(0.2, 0.2))
    assert fill_of(scaling, "uint8") == (102.0, 255.0)
    assert fill_of(scaling, "float32") == pytest.approx((102.0, 510.0))
    assert fill_of(Scaling(kind="window", center=40, width=400, mean=(0.25,)), "int16") == (-60.0,)


@pytest.fixture(autouse=True)
def forget_network() -> None:
    segment._loaded = None
