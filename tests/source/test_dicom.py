"""Scans: pixels as pydicom gives them, in Hounsfield units; refusals in one line; nothing of the patient anywhere."""

from __future__ import annotations

import json
import pickle
import random
import sqlite3
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from dicom_files import PERSONAL, write_dicom
from fakes import save_tiny_onnx, smooth_noise
from pydicom.uid import JPEG2000Lossless, RLELossless

from tileseg.card import ModelCard, Scaling
from tileseg.errors import InputError, TilesegError, UsageError
from tileseg.hounsfield import ValueWindow
from tileseg.source.dicom import DicomScene, open_dicom
from tileseg.source.protocol import ReadRequest
from tileseg.source.scene import open_scene
from tileseg.source.statistics import scaling_for, statistics
from tileseg.window import Window

if TYPE_CHECKING:
    from conftest import Command


def opened(path: Path | str, bands: int = 1) -> DicomScene:
    scene = open_scene(path, expected=bands)
    assert isinstance(scene, DicomScene)
    return scene


def values(path: Path | str, bands: int = 1) -> Any:
    scene = opened(path, bands)
    return scene.read(scene.grid.extent)[0]


def refusal(path: Path) -> str:
    """Why a file is refused; empty where it is not."""
    try:
        opened(path)
    except TilesegError as error:
        return str(error)
    return ""


def stored(height: int = 37, width: int = 53, seed: int = 1, kind: str = "int16") -> Any:
    return (smooth_noise(height, width, 1, seed)[..., 0].astype(np.int32) * 9 - 900).astype(kind)


class TestValues:
    def test_of_a_ct_are_hounsfield_units(self, tmp_path: Path) -> None:
        raw = stored() + 1024
        path = write_dicom(
            tmp_path / "a.dcm", raw, RescaleSlope="1", RescaleIntercept="-1024", PixelSpacing=[0.5, 0.75]
        )
        scene = opened(path)
        assert np.array_equal(values(path)[..., 0], raw - 1024)
        assert scene.dtype == "int16"
        assert scene.grid.pixel_metres == pytest.approx((0.00075, 0.0005))
        assert "its values are Hounsfield units" in scene.notes
        pixels, valid = pickle.loads(pickle.dumps(scene)).read(Window(4, 7, 11, 30))
        assert np.array_equal(pixels[..., 0], raw[4:15, 7:37] - 1024)
        assert valid.all()

    @pytest.mark.parametrize(
        ("kind", "more", "dtype", "expected"),
        [
            ("uint16", {}, "uint16", lambda v: v),
            ("uint8", {}, "uint8", lambda v: v),
            ("int16", {"RescaleSlope": "0.5", "RescaleIntercept": "3"}, "float32", lambda v: v * 0.5 + 3),
            ("int16", {"RescaleSlope": "2"}, "int16", lambda v: np.clip(v * 2, -32768, 32767)),
            ("uint16", {"Modality": "MR", "RescaleSlope": "2"}, "float32", lambda v: v * 2),
            ("uint8", {"PhotometricInterpretation": "MONOCHROME1"}, "uint8", lambda v: 255 - v),
            ("int16", {"PhotometricInterpretation": "MONOCHROME1"}, "int16", lambda v: -1 - v),
        ],
    )
    def test_types_rescaling_and_turned_over(
        self, tmp_path: Path, kind: str, more: dict[str, Any], dtype: str, expected: Any
    ) -> None:
        raw = stored(kind=kind)
        path = write_dicom(tmp_path / "a.dcm", raw, **more)
        found = values(path)
        assert found.dtype.name == opened(path).dtype == dtype
        assert np.array_equal(found[..., 0], expected(raw.astype(np.int64)).astype(dtype))

    def test_padding_is_no_data(self, tmp_path: Path) -> None:
        raw = stored()
        raw[:9] = -2000
        scene = opened(write_dicom(tmp_path / "a.dcm", raw, PixelPaddingValue=-2000, RescaleIntercept="-24"))
        pixels, valid = scene.read(scene.grid.extent, (7,))
        assert not valid[:9].any()
        assert valid[9:].all()
        assert (pixels[:9] == 7).all()
        assert scene.has_gaps

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
    def test_compressed_frames_of_several(self, tmp_path: Path, syntax: str) -> None:
        raw = np.stack([stored(seed=seed, kind="uint16") for seed in range(3)])
        path = write_dicom(tmp_path / "a.dcm", raw, NumberOfFrames=3, syntax=syntax)
        for number in (1, 2, 3):
            assert np.array_equal(values(f"DICOM:{number}:{path}")[..., 0], raw[number - 1])
        with pytest.raises(InputError, match=r"holds 3 frames; name one of them, such as DICOM:1:"):
            opened(path)
        with pytest.raises(InputError, match="has no frame 4; it has 3"):
            opened(f"DICOM:4:{path}")

    def test_enhanced_files_say_things_by_frame(self, tmp_path: Path) -> None:
        raw = np.stack([stored(seed=seed) for seed in range(2)])
        frames = []
        for slope in ("1", "3"):
            group, inner = pydicom.Dataset(), pydicom.Dataset()
            inner.RescaleSlope, inner.RescaleIntercept = slope, "-5"
            group.PixelValueTransformationSequence = [inner]
            frames.append(group)
        shared, measures = pydicom.Dataset(), pydicom.Dataset()
        measures.PixelSpacing = [2, 3]
        shared.PixelMeasuresSequence = [measures]
        path = write_dicom(
            tmp_path / "a.dcm",
            raw // 4,
            NumberOfFrames=2,
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=frames,
        )
        assert np.array_equal(values(f"DICOM:2:{path}")[..., 0], raw[1] // 4 * 3 - 5)
        assert np.array_equal(values(f"DICOM:1:{path}")[..., 0], raw[0] // 4 - 5)
        assert opened(f"DICOM:1:{path}").grid.pixel_metres == pytest.approx((0.003, 0.002))

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        "name",
        ["ExplVR_BigEnd", "MR_small_RLE", "MR_small_implicit", "SC_rgb_jpeg_dcmtk", "examples_jpeg2k",
         "examples_overlay", "examples_rgb_color", "CT_small"],
    )  # fmt: skip
    def test_real_ones_are_those_of_pydicom(self, real_data: Path, name: str) -> None:
        path = real_data / "dicom" / f"{name}.dcm"
        expected = pydicom.pixels.pixel_array(path)
        expected = expected if expected.ndim == 3 else expected[..., None]
        offset = -1024 if name == "CT_small" else 0
        assert np.array_equal(values(path, expected.shape[2]), expected + offset)

    @pytest.mark.real_data
    def test_colours_of_a_palette(self, real_data: Path) -> None:
        found = pydicom.dcmread(real_data / "dicom/examples_palette.dcm")
        expected = pydicom.pixels.apply_color_lut(found.pixel_array, found)
        pixels = values(real_data / "dicom/examples_palette.dcm", 3)
        assert np.array_equal(pixels, expected >> 8 * (expected.dtype.itemsize - 1))


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "is a segmentation, so labels, and no image"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "is a dose grid, and no image"),
            ({"Rows": 4000}, "is truncated: 53 x 4000 pixels"),
            ({"Rows": 65535, "Columns": 65535}, r"8191 MiB; expected at most 256 MiB"),
            ({"SamplesPerPixel": 3}, "has pixels of 3 values that are 'MONOCHROME2'"),
            ({"PhotometricInterpretation": "HSV"}, "has pixels of 1 values that are 'HSV'"),
            ({"BitsAllocated": 12}, "has 12 bits"),
            ({"RescaleSlope": "0"}, "its rescale slope is 0"),
        ],
    )
    def test_what_cannot_be(self, tmp_path: Path, more: dict[str, Any], says: str) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored())
        found = pydicom.dcmread(path)
        for name, value in more.items():
            setattr(found, name, value)
        found.save_as(path)
        with pytest.raises(InputError, match=says):
            opened(path)

    def test_objects_without_pixels(self, tmp_path: Path) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored())
        found = pydicom.dcmread(path)
        del found.PixelData, found.Rows
        found.save_as(path)
        with pytest.raises(InputError, match="without an image"):
            opened(path)

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
    def test_a_header_that_claims_more_than_the_picture(self, tmp_path: Path, syntax: str) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored(kind="uint16"), syntax=syntax)
        found = pydicom.dcmread(path)
        found.Rows = found.Columns = 9000
        found.save_as(path)
        tracemalloc.start()
        with pytest.raises(InputError, match="9000 x 9000"):
            opened(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()

    def test_one_that_may_unpack_to_any_size(self, tmp_path: Path) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored())
        found = pydicom.dcmread(path)
        found.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        found.save_as(path)
        with pytest.raises(InputError, match="deflated as a whole"):
            opened(path)

    def test_a_package_that_is_missing_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored())
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(UsageError, match=r'pip install "tileseg\[dicom\]"'):
            opened(path)

    def test_too_few_bands(self, tmp_path: Path) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored())
        with pytest.raises(InputError, match="--bands 1,1,1 repeats a band"):
            opened(path, 3)
        assert open_dicom(path, ReadRequest(3, (1, "grey", 1))).bands == (1, 1, 1)
        with pytest.raises(UsageError, match="names 2 bands"):
            open_dicom(path, ReadRequest(3, (1, 1)))

    def test_one_that_changes(self, tmp_path: Path) -> None:
        path = write_dicom(tmp_path / "a.dcm", stored())
        scene = opened(path)
        write_dicom(path, stored(50))
        with pytest.raises(InputError, match="has changed since"):
            scene.read(scene.grid.extent)

    def test_damage_of_any_kind_is_one_line(self, tmp_path: Path) -> None:
        originals = [
            write_dicom(tmp_path / "a", stored(), PixelSpacing=[1, 1]).read_bytes(),
            write_dicom(tmp_path / "b", stored(kind="uint16"), syntax=RLELossless).read_bytes(),
            write_dicom(tmp_path / "c", stored(kind="uint16"), syntax=JPEG2000Lossless).read_bytes(),
        ]
        draw, path, refused = random.Random(14), tmp_path / "mutated.dcm", 0
        tracemalloc.start()
        for _ in range(200):
            data = bytearray(draw.choice(originals))
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(132, min(len(data), 2200))] = draw.choice((0, 1, 255, draw.randrange(256)))
            path.write_bytes(data[: draw.randrange(132, len(data))] if draw.random() < 0.2 else data)
            if said := refusal(path):
                refused += 1
                assert "\n" not in said
                assert not any(value in said for value in PERSONAL.values() if len(value) > 4)
        assert refused > 30
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "grey"
    save_tiny_onnx(folder, bands=1)
    return folder


class TestWindows:
    def card(self, grey: Path, **more: Any) -> ModelCard:
        return ModelCard.model_validate(json.loads((grey / "card.json").read_text())).model_copy(update=more)

    def test_become_what_a_screen_shows_to_a_model_of_pictures(self, tmp_path: Path, grey: Path) -> None:
        scene = opened(write_dicom(tmp_path / "a.dcm", stored()))
        card = self.card(grey)  # (value / 255 - 0.4) / 0.2
        found = scaling_for(card, scene, ValueWindow(40, 400))
        assert found.limits == (-160, 240)
        assert (found.zero[0], found.unit[0]) == pytest.approx((0.4 * 400 - 160, 0.2 * 400))

    def test_replace_that_of_a_model_of_windows(self, tmp_path: Path, grey: Path) -> None:
        scene = opened(write_dicom(tmp_path / "a.dcm", stored()))
        lung = Scaling(kind="window", center=-600, width=1500, mean=(0.4,), std=(0.2,))
        card = self.card(grey, scaling=lung, dtypes=("float32",))
        assert scaling_for(card, scene) == lung  # in Hounsfield units, whatever type holds them
        other = scaling_for(card, scene, ValueWindow(40, 400))
        assert other.limits == (-160, 240)
        assert (other.mean, other.std) == (pytest.approx((0.4,)), pytest.approx((0.2,)))

    def test_clip_before_the_scene_is_measured(self, tmp_path: Path, grey: Path) -> None:
        raw = stored()
        scene = opened(write_dicom(tmp_path / "a.dcm", raw))
        card = self.card(grey, scaling=Scaling(kind="scene"), dtypes=("int16",))
        found = scaling_for(card, scene, ValueWindow(0, 300))
        clipped = np.clip(raw.astype(float), -150, 150)
        assert (found.zero[0], found.unit[0]) == pytest.approx((clipped.mean(), clipped.std()))
        assert statistics(scene)[0] == pytest.approx(raw.mean())


def test_nothing_of_the_patient_is_in_what_a_run_leaves(tmp_path: Path, grey: Path, in_process: Command) -> None:
    path = write_dicom(tmp_path / "a.dcm", stored(), PixelSpacing=[0.5, 0.75], PatientWeight="71.125")
    asked = ("--window-preset", "lung", "--format", "geojson,geojsonseq,gpkg,parquet,fgb")
    for more in ((), ("--json", "--overwrite"), ("--verbose", "--overwrite")):
        done = in_process("run", path, "--model", grey, "--out", tmp_path / "out", *asked, *more)
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        assert not [value for value in PERSONAL.values() if len(value) > 4 and value in said]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["spec"]["window_preset"] == "lung"
    words = [word.encode() for value in PERSONAL.values() for word in {value, *value.split("^")} if len(word) > 3]
    for file in (tmp_path / "out").rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert not [word for word in words if word in data], file
    with sqlite3.connect(tmp_path / "out/polygons.gpkg") as table:
        assert table.execute("select count(*) from polygons").fetchone()[0] > 0
    table.close()
