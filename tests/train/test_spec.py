from pathlib import Path

import pytest

from tileseg.errors import UsageError
from tileseg.spec import read_config
from tileseg.train.spec import TrainSpec

NEEDED = {"dataset": "d.toml", "out": "m"}


def test_tables_may_be_given_as_text() -> None:
    spec = TrainSpec.parse({**NEEDED, "network": "width=0.25, batch-norm=false,encoder=unet", "augment": "hue=0.1"})
    assert spec.network.width == 0.25
    assert spec.network.batch_norm is False
    assert spec.network.encoder == "unet"
    assert spec.augment.hue == 0.1
    assert spec.augment.flips is True


def test_no_augmentation() -> None:
    augment = TrainSpec.parse({**NEEDED, "augment": "none"}).augment
    assert not augment.moves
    assert not any(augment.model_dump().values())


def test_lists_and_numbers_may_be_given_as_text() -> None:
    spec = TrainSpec.parse({**NEEDED, "gsd": "0.3", "class_weights": "1,2.5", "value_window": "40,400"})
    assert spec.gsd == 0.3
    assert spec.class_weights == (1.0, 2.5)
    assert spec.value_window == (40, 400)
    assert TrainSpec.parse({**NEEDED, "gsd": "native", "class_weights": "balanced"}).gsd == "native"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"crop": 250}, "multiple of 16"),
        ({"network": "width=9"}, "--network width"),
        (
            {"network": "wide=1"},
            "^--network wide: is not known .did you mean width..; expected one of encoder, width, ",
        ),
        ({"network": "0.25"}, "name=value"),
        ({"augment": "hue=2"}, "--augment hue"),
        ({"augment": "foo=1"}, "^--augment foo: is not known; expected one of flips, turns, "),
        ({"network": 3}, "^--network: expected a table of encoder, .*, not 3"),
        ({"rate": 0}, "--rate"),
        ({"steps_per_epoch": 0}, "--steps-per-epoch"),
        ({"gsd": "fine"}, "--gsd"),
        ({"value_window": "40"}, "^--value-window: has 1 value; expected 2"),
        ({"value_window": ""}, "^--value-window: has 0 values; expected 2"),
        ({"precision": "int8"}, "--precision"),
        ({"colour": 1}, "--colour"),
        ({"stepz": 4}, "^--stepz: is not known .did you mean steps"),
        ({"init": "m0", "encoder_weights": "imagenet"}, "encoder_weights"),
    ],
)
def test_mistakes_are_told_in_one_line(options, told) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        TrainSpec.parse({**NEEDED, **options})
    assert "\n" not in str(raised.value)


def test_what_ends_a_training() -> None:
    assert TrainSpec.parse(NEEDED).last_step == 2000
    assert TrainSpec.parse({**NEEDED, "minutes": 3}).last_step is None
    assert TrainSpec.parse({**NEEDED, "minutes": 3, "steps": 7}).last_step == 7


def test_choices_leave_out_what_does_not_change_the_result() -> None:
    one = TrainSpec.parse({**NEEDED, "threads": 1, "name": "a", "overwrite": True})
    assert one.choices() == TrainSpec.parse({**NEEDED, "threads": 4, "out": "b"}).choices()
    assert one.choices() != TrainSpec.parse({**NEEDED, "seed": 2}).choices()


def test_a_spec_goes_through_toml(tmp_path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('dataset = "d.toml"\nout = "m"\nloss = "ce"\n[network]\nwidth = 0.5\n[augment]\nturns = false\n')
    spec = TrainSpec.parse(read_config(path))
    assert spec.dataset == Path("d.toml")
    assert spec.network.width == 0.5
    assert not spec.augment.turns
    again = TrainSpec.parse({**NEEDED, **spec.choices()})
    # A warm-up that was not given has become the number that it is.
    assert again == spec.model_copy(update={"warmup": 50})
    assert again.choices() == spec.choices()


def test_options_that_are_new_change_nothing_where_they_are_not_used() -> None:
    """Their names are not among the choices then: a training that began without them goes on."""
    plain = TrainSpec.parse(NEEDED).choices()
    assert {"decoder_width", "decoder_convs"}.isdisjoint(plain["network"])
    light = TrainSpec.parse({**NEEDED, "network": "decoder_width=0.5"}).choices()
    assert light["network"] == {**plain["network"], "decoder_width": 0.5}
