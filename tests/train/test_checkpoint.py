import numpy as np
import pytest

from tileseg.errors import TilesegError
from tileseg.nn.backend import keras, to_numpy
from tileseg.train.checkpoint import Progress, Store
from tileseg.train.rates import Plateau

PROGRESS = Progress(7, 1.5, 0.25, 0.5, 0.75, 5, 2, Plateau(0.75, 2, 1))


def test_what_is_saved_comes_back(tmp_path) -> None:
    store = Store(tmp_path / "state")
    counter = keras.Variable(3, dtype="int64", trainable=False)
    weights = [keras.Variable(np.arange(6, dtype=np.float32).reshape(2, 3)), counter]
    store.save(store.last, {"a": weights, "b": [np.float32(4)]}, PROGRESS, "print")
    for variable in weights:
        variable.assign(keras.ops.zeros_like(variable))
    found = store.read(store.last)
    assert found is not None
    assert found.progress == PROGRESS
    assert found.fingerprint == "print"
    found.restore("a", weights)
    np.testing.assert_array_equal(to_numpy(weights[0]), np.arange(6).reshape(2, 3))
    assert int(to_numpy(counter)) == 3
    assert counter.dtype == "int64"


def test_a_first_progress_goes_through_the_file(tmp_path) -> None:
    store = Store(tmp_path)
    store.save(store.last, {}, Progress(), "")
    found = store.read(store.last)
    assert found is not None
    assert found.progress == Progress()


def test_nothing_saved_is_none_and_a_torn_file_is_never_seen(tmp_path, monkeypatch) -> None:
    store = Store(tmp_path)
    assert store.read(store.last) is None
    store.save(store.last, {"a": [np.zeros(3)]}, PROGRESS, "")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        store.save(store.last, {"a": [np.ones(3)]}, Progress(), "")
    assert [path.name for path in tmp_path.iterdir()] == ["last.npz"]
    found = store.read(store.last)
    assert found is not None
    assert found.progress == PROGRESS


def test_a_damaged_file_is_told(tmp_path) -> None:
    store = Store(tmp_path)
    store.save(store.last, {"a": [np.zeros(300)]}, PROGRESS, "")
    store.last.write_bytes(store.last.read_bytes()[:-200])
    with pytest.raises(TilesegError, match="damaged"):
        store.read(store.last)
