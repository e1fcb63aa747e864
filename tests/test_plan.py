from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import planned

from tileseg.card import Form, ModelCard
from tileseg.errors import UsageError
from tileseg.plan import Plan
from tileseg.window import Window


def card(stride: int = 16, radius: int = 138, *, local: bool = True) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "plan",
            "bands": ("red", "green", "blue"),
            "classes": ({"name": "ground", "color": "#000000"}, {"name": "roof", "color": "#ff0000"}),
            "output_channels": 2,
            "stride": stride,
            "radius": radius,
            "local": local,
            "flops_per_pixel": 1e5,
            "activation_bytes_per_pixel": 400,
            "parameters": 1_500_000,
            "forms": (Form(file="model.keras", sha256="0" * 64),),
        }
    )


def plan(scene: tuple[int, int], **options) -> Plan:
    return planned(scene, card(), **options)


sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
scale_sets = st.sampled_from(
    [(Fraction(1),), (Fraction(1, 2), Fraction(1), Fraction(3, 2)), (Fraction(3, 4), Fraction(5, 4))]
)


@given(sizes, scale_sets, st.sampled_from([None, 768, 1536]), st.sampled_from([None, 832, 1024]))
def test_blocks_cover_the_scene_once_and_tiles_cover_blocks(scene, scales, block, window) -> None:
    made = plan(scene, scales=scales, block=block, window=window)
    assert sum(b.core.pixels for b in made) == scene[0] * scene[1]
    for b in made:
        assert b.core.row_off % made.align == 0
        assert b.core.col_off % made.align == 0
        assert made[b.index] == b
        tiles = made.tiles(b.core)
        assert sum(p.pixels for t in tiles if (p := t.intersection(b.core))) == b.core.pixels
        read = made.read(b.core)
        assert all(t.buffer(made.margin).intersection(read) == t.buffer(made.margin) for t in tiles)


@given(sizes)
def test_windows_fit_small_scenes(scene) -> None:
    made = plan(scene)
    assert all(side - extent < 16 * 8 for side, extent in zip(made.block, scene, strict=True) if extent <= 2048)


def test_a_window_option_is_the_networks_input() -> None:
    made = plan((5000, 7000), window=1024)
    assert made.window_at(Fraction(1)) == (1024, 1024)
    assert made.tile == (1024 - 2 * 144, 1024 - 2 * 144)
    assert all(b % t == 0 for b, t in zip(made.block, made.tile, strict=True))


@given(
    sizes,
    st.sampled_from([Fraction(1, 4), Fraction(2, 9), Fraction(1, 15), Fraction(5, 4), Fraction(3)]),
    st.sampled_from([(Fraction(1),), (Fraction(1, 2), Fraction(1), Fraction(3, 2))]),
    st.sampled_from([None, 832]),
)
def test_resampled_scenes_are_covered_too(scene, base, scales, window) -> None:
    made = plan(
        scene, scales=tuple(base * s for s in scales), base=base, window=window, max_memory=None if window else 8 << 30
    )
    assert made.exact
    assert sum(b.core.pixels for b in made) == scene[0] * scene[1]
    for scale in made.scales:
        assert all((side * scale).denominator == 1 and side * scale % 16 == 0 for side in made.tile)
    if window:
        assert all(832 - made.align * base < side <= 832 for side in made.window_at(base))
    else:
        assert made.memory.total <= 8 << 30


def test_the_finer_the_scene_the_larger_its_tiles() -> None:
    quarter = Fraction(1, 4)
    fine, as_trained = plan((20000, 20000), scales=(quarter,), base=quarter), plan((5000, 5000))
    assert [int(side * quarter) for side in fine.tile] == pytest.approx(as_trained.tile, abs=16)
    thrice = plan((5000, 5000), scales=(Fraction(3),), base=Fraction(3))
    assert max(thrice.window_at(Fraction(3))) <= 2048 + 2 * 160
    with pytest.raises(UsageError, match=r"--window 320 leaves no core.*expected at least 336"):
        plan((5000, 5000), scales=(quarter,), base=quarter, window=320)


def test_scene_size_does_not_change_memory() -> None:
    assert plan((32768, 32768)).memory == plan((8192, 8192)).memory


def test_less_memory_makes_smaller_windows_until_nothing_fits() -> None:
    roomy, tight = plan((9000, 9000), max_memory=6 << 30), plan((9000, 9000), max_memory=2200 << 20)
    assert tight.memory.total <= 2200 << 20 < roomy.memory.total
    assert max(tight.tile) < max(roomy.tile)
    with pytest.raises(UsageError, match=r"--max-memory 8 bytes \(without a unit such as GiB\) is too little"):
        plan((9000, 9000), max_memory=8)
    with pytest.raises(UsageError, match="--max-memory 600 MiB is too little"):
        plan((9000, 9000), max_memory=600 << 20)


def test_what_memory_does_not_allow_in_both_directions_it_may_in_one() -> None:
    large = plan((4096, 4096))
    between = plan((4096, 4096), max_memory=large.memory.total - 1)
    small = plan((4096, 4096), max_memory=between.memory.total - 1)
    assert (large.tile, between.tile, small.tile) == ((2048, 2048), (1376, 2048), (1376, 1376))
    assert small.redundancy > between.redundancy > large.redundancy


def test_little_memory_makes_blocks_wait_before_it_makes_windows_tiny() -> None:
    """Of a light network the pixels and logits of blocks are most of what varies: small windows spare none of that."""
    light = card(1, 4).model_copy(update={"activation_bytes_per_pixel": 24})
    roomy = planned((9000, 9000), light, block=1728)
    least = replace(roomy, batch=1, threads=1).memory.total
    for memory in range(least, roomy.memory.total, 8 << 20):
        assert planned((9000, 9000), light, block=1728, max_memory=memory).redundancy < 1.3 * roomy.redundancy


@given(sizes, st.integers(1900, 6000))
def test_more_memory_is_never_a_loss(scene, mebibytes) -> None:
    """Whatever the size, so that nobody has to try values of --max-memory."""
    some, more = (plan(scene, max_memory=m << 20) for m in (mebibytes, mebibytes + 500))
    assert more.redundancy <= some.redundancy


def test_more_of_anything_needs_more_memory() -> None:
    base = plan((9000, 9000), window=1024, block=2048).memory.total
    assert plan((9000, 9000), window=2048, block=2048).memory.total > base
    assert plan((9000, 9000), window=1024, block=4096).memory.total > base
    assert plan((9000, 9000), window=1024, block=2048, workers=2).memory.total > base
    assert plan((9000, 9000), window=1024, block=2048, batch=4).memory.total > base


@pytest.mark.parametrize("stitch", ["hann", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.6])
def test_blending_weights_sum_to_one_everywhere(stitch, overlap) -> None:
    made = plan((700, 1000), stitch=stitch, window=256, overlap=overlap)
    total = np.zeros((700, 1000))
    weight = np.multiply.outer(made.weights(0), made.weights(1))
    for t in made.tiles(Window(0, 0, 700, 1000)):
        part = t.intersection(Window(0, 0, 700, 1000))
        if part:
            total[part.slices] += weight[part.relative_to(t).slices]
    np.testing.assert_allclose(total, 1, rtol=1e-5)


@given(st.integers(0, 3), st.integers(0, 3))
def test_blended_tiles_do_not_depend_on_blocks(down, across) -> None:
    small, large = (plan((2048, 2048), stitch="hann", window=512, block=b) for b in (512, 2048))
    core = Window(down * 512, across * 512, 512, 512)
    covering = {t for t in large.tiles(Window(0, 0, 2048, 2048)) if t.intersection(core)}
    assert covering == set(small.tiles(core))


def test_exactness_is_claimed_only_with_the_whole_halo() -> None:
    assert plan((3000, 3000)).exact
    assert not plan((3000, 3000), halo=96).exact
    assert plan((3000, 3000), halo=160).exact
    assert not plan((3000, 3000), stitch="hann").exact


def test_a_block_becomes_a_multiple_of_what_scales_ask_for() -> None:
    assert plan((3000, 3000), block=1000).block == (1008, 1008)
    assert plan((3000, 3000), block=256, scales=(Fraction(2, 5),)).block == (320, 320)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 300}, "at least 304"),
        ({"halo": 100}, "multiple of the model's stride 16"),
        ({"overlap": 1.0}, "--overlap"),
    ],
)
def test_impossible_sizes_are_told(options, told) -> None:
    with pytest.raises(UsageError, match=told):
        plan((3000, 3000), **options)
