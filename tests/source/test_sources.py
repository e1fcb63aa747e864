"""Another kind of source is one class and one line of a registry; the package depends on the protocol alone."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes import FakeSource, smooth_noise, write_scene
from typer.testing import CliRunner

from tileseg import RunSpec, run
from tileseg.cli.main import app
from tileseg.dataset.dataset import load_dataset
from tileseg.errors import InputError, UsageError
from tileseg.source.picture import overview_rgb
from tileseg.source.protocol import PixelSource, ReadRequest
from tileseg.source.raster import open_raster
from tileseg.source.scene import OPENERS, Opener, open_scene, read_plane
from tileseg.source.statistics import statistics
from tileseg.window import Window


@dataclass(frozen=True)
class NumpySource(FakeSource):
    """The pixels of a ``.npy`` file."""

    def __reduce__(self) -> tuple[object, ...]:
        return open_numpy, (self.path, ReadRequest(len(self.bands)))


def open_numpy(path: object, wanted: ReadRequest) -> NumpySource:
    try:
        pixels = np.load(str(path))
    except ValueError as error:
        raise InputError(f"{path}: is no array of NumPy: {error}") from error
    if pixels.shape[2] < wanted.expected:
        raise InputError(f"{path}: has {pixels.shape[2]} bands; {wanted.words.taker} {wanted.expected}")
    return NumpySource(pixels[..., : wanted.expected], path=str(path))


@pytest.fixture
def numpy_files(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Opener("arrays of NumPy", lambda path: str(path).endswith(".npy"), open_numpy)
    monkeypatch.setattr("tileseg.source.scene.OPENERS", [toy, *OPENERS])


@pytest.mark.usefixtures("numpy_files")
def test_a_run_of_a_toy_source_is_that_of_the_raster(tmp_path: Path, model: Path) -> None:
    pixels = smooth_noise(70, 100, 3)
    np.save(tmp_path / "scene.npy", pixels)
    write_scene(tmp_path / "scene.tif", pixels, crs=None)
    labels = []
    for name in ("scene.npy", "scene.tif"):
        out = tmp_path / f"{name}.out"
        run(
            RunSpec(
                scene=tmp_path / name, model=str(model), out=out, workers=0, block=64, window=64, precision="float32"
            )
        )
        with rasterio.open(out / "labels.tif") as file:
            labels.append(file.read(1))
    assert np.array_equal(*labels)
    assert len(np.unique(labels[0])) > 1


@pytest.mark.usefixtures("numpy_files")
def test_labels_of_a_toy_source_become_polygons_and_teach(tmp_path: Path) -> None:
    labels = smooth_noise(40, 70, 1)[..., 0] // 128
    np.save(tmp_path / "labels.npy", labels[..., None])
    write_scene(tmp_path / "labels.tif", labels[..., None], crs=None)
    write_scene(tmp_path / "scene.tif", smooth_noise(40, 70, 3), crs=None)
    done = CliRunner().invoke(app, ["vectorize", str(tmp_path / "labels.npy"), "--out", str(tmp_path / "toy.geojson")])
    assert done.exit_code == 0, done.output
    raster = CliRunner().invoke(app, ["vectorize", str(tmp_path / "labels.tif"), "--out", str(tmp_path / "a.geojson")])
    assert raster.exit_code == 0, raster.output
    assert (tmp_path / "toy.geojson").read_bytes() == (tmp_path / "a.geojson").read_bytes()
    (tmp_path / "d.toml").write_text(
        'bands = ["red", "green", "blue"]\nclasses = [{name = "other", background = true}, {name = "roof"}]\n'
        '[[scenes]]\nimage = "scene.tif"\nlabels = "labels.npy"\n'
    )
    scene = load_dataset(tmp_path / "d.toml", gsd="native").scenes[0]
    assert np.array_equal(scene.read_labels(scene.grid.extent), labels)


@pytest.mark.usefixtures("numpy_files")
def test_its_refusals_are_a_users(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "scene.npy", smooth_noise(15, 21, 2))
    with pytest.raises(InputError, match="has 2 bands; the model takes 3"):
        run(RunSpec(scene=tmp_path / "scene.npy", model=str(model), out=tmp_path / "out", workers=0))


def sources(folder: Path) -> list[PixelSource]:
    """The same pixels, without data at the top, as a fake and as a file."""
    pixels = smooth_noise(50, 70, 3)
    pixels[:6] = 0
    path = write_scene(folder / "a.tif", pixels, nodata=0)
    return [FakeSource(pixels, pixels.any(axis=2)), open_raster(path, ReadRequest(3))]


class TestAllKeepTheProtocol:
    def test_windows_and_what_is_made_of_them(self, tmp_path: Path) -> None:
        fake, raster = (pickle.loads(pickle.dumps(source)) for source in sources(tmp_path))
        window = Window(3, 10, 20, 31)
        for one, other in (
            (fake.read(window), raster.read(window)),
            (fake.read(window, (1, 2, 3)), raster.read(window, (1, 2, 3))),
            (read_plane(fake, Window(-9, -4, 30, 90), 16), read_plane(raster, Window(-9, -4, 30, 90), 16)),
            (statistics(fake), statistics(raster)),
        ):
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], other[1])
        assert overview_rgb(fake, 35).shape == overview_rgb(raster, 35).shape == (25, 35, 3)
        assert (fake.bands, fake.dtype, fake.has_gaps) == (raster.bands, raster.dtype, raster.has_gaps)

    def test_a_window_outside_is_a_mistake(self, tmp_path: Path) -> None:
        for source in sources(tmp_path):
            with pytest.raises(UsageError):
                source.read(Window(40, 0, 20, 20))

    def test_the_last_one_opens_what_no_other_knows(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="No such file"):
            open_scene(tmp_path / "x.npy", expected=3)
