"""Stacks of scans: slices in their order, and labels, areas and volumes of all of them together."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pydicom
import pytest
import rasterio
from dicom_files import PERSONAL, write_dicom
from fakes import CLASSES, save_tiny_onnx, smooth_noise

from tileseg.errors import InputError, UsageError
from tileseg.scan.series import read_stack

if TYPE_CHECKING:
    from conftest import Command

HEIGHT, WIDTH = 37, 53
OBLIQUE = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
NORMAL = np.cross(OBLIQUE[:3], OBLIQUE[3:])
WORDS = [word.encode() for value in PERSONAL.values() for word in {value, *value.split("^")} if len(word) > 4]


def write_slice(path: Path, place: int, **more: Any) -> Path:
    """An oblique slice, ``place`` times 2.5 mm behind the first one."""
    pixels = (smooth_noise(HEIGHT, WIDTH, 1, place)[..., 0].astype(np.int16) * 9 - 900).astype(np.int16)
    given = {
        "PixelSpacing": [0.5, 0.75], "ImageOrientationPatient": OBLIQUE, "SliceThickness": "2.5",
        "ImagePositionPatient": [float(x) for x in np.round(np.array([10, -20, 30]) + 2.5 * place * NORMAL, 6)],
        "InstanceNumber": 100 - place, "RescaleIntercept": "0", **more,
    }  # fmt: skip
    return write_dicom(path, pixels, **given)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slices whose names and numbers say the contrary of their order, and a report."""
    folder = tmp_path_factory.mktemp("series")
    for place, name in enumerate(("d", "c", "b", "a")):
        write_slice(folder / name, place)
    report = pydicom.dcmread(folder / "a")
    del report.Rows, report.PixelData
    report.save_as(folder / "report")
    (folder / "readme.txt").write_text("no scan")
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "grey"
    save_tiny_onnx(folder, bands=1)
    return folder


def labels_of(folder: Path) -> Any:
    with rasterio.open(folder / "labels.tif") as file:
        return file.read(1)


def test_a_series_becomes_one(series: Path, grey: Path, tmp_path: Path, in_process: Command) -> None:
    out = tmp_path / "out"
    done = in_process("scan", series, "--model", grey, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "1 file(s) are no images" in done.stderr
    assert done.stderr.count("Hounsfield units") == 1
    expected = np.stack([labels_of(out / "slices" / f"{name}.tileseg") for name in "dcba"])
    assert len(np.unique(expected)) > 1
    image = nibabel.load(out / "labels.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), expected.transpose(2, 1, 0))
    assert image.header.get_zooms() == pytest.approx((0.75, 0.5, 2.5))
    for column, row, place in ((0, 0, 0), (52, 0, 0), (5, 36, 3)):
        there = np.array([10, -20, 30]) + 2.5 * place * NORMAL
        there = there + 0.75 * column * np.array(OBLIQUE[:3]) + 0.5 * row * np.array(OBLIQUE[3:])
        assert image.affine @ (column, row, place, 1) == pytest.approx([-there[0], -there[1], there[2], 1], abs=1e-4)

    found = pydicom.dcmread(out / "segmentation.dcm")
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == ["roof", "water"]
    sources = {pydicom.dcmread(series / name).SOPInstanceUID: place for place, name in enumerate("dcba")}
    frames = np.atleast_3d(found.pixel_array).reshape(-1, HEIGHT, WIDTH)
    assert len(frames) == sum((plane == i).any() for plane in expected for i in (1, 2))
    for frame, of in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        uid = of.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = of.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(frame, expected[sources[uid]] == number)

    measured = json.loads((out / "measurements.json").read_text())
    rows = list(csv.DictReader((out / "measurements.csv").read_text().splitlines()))
    for i, info in enumerate(CLASSES):
        count = int((expected == i).sum())
        assert measured["volumes"][info.name] == {
            "pixels": count,
            "volume_mm3": pytest.approx(count * 0.5 * 0.75 * 2.5, abs=1e-3),
        }
        areas = [float(row["area_mm2"]) for row in rows if row["class"] == info.name]
        assert areas == pytest.approx([(plane == i).sum() * 0.375 for plane in expected], abs=1e-3)
    assert [row["file"] for row in rows[::3]] == ["d", "c", "b", "a"]

    for file in out.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert not [word for word in WORDS if word in data], file
    assert not [word for word in WORDS if word.decode() in done.stdout + done.stderr]

    again = in_process("scan", series, "--model", grey, "--out", out, "--identified", "--json", "--write", "seg")
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    assert said["slices"]["counts"]["skipped"] == 4
    assert said["volumes"] == measured["volumes"]
    assert pydicom.dcmread(out / "segmentation.dcm").PatientName == PERSONAL["PatientName"]
    assert "Zebedee" not in again.stdout + again.stderr


def test_frames_of_one_file(grey: Path, tmp_path: Path, in_process: Command) -> None:
    raw = np.stack([smooth_noise(HEIGHT, WIDTH, 1, seed)[..., 0] for seed in range(3)])
    path = write_dicom(tmp_path / "us.dcm", raw, NumberOfFrames=3, Modality="US")
    done = in_process("scan", path, "--model", grey, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no segmentation.dcm: images do not say where they lie" in done.stderr
    measured = json.loads((tmp_path / "out/measurements.json").read_text())
    assert [one["frame"] for one in measured["slices"]] == [1, 2, 3]
    assert {values["volume_mm3"] for values in measured["volumes"].values()} == {None}
    assert not (tmp_path / "out/labels.nii.gz").exists()
    assert not (tmp_path / "out/segmentation.dcm").exists()


def test_slices_that_fail_leave_no_volume(series: Path, tmp_path: Path, model: Path, in_process: Command) -> None:
    done = in_process("scan", series, "--model", model, "--out", tmp_path / "out")  # of three bands
    assert done.returncode == 42
    assert "--bands 1,1,1" in done.stderr
    assert not (tmp_path / "out/measurements.json").exists()


class TestStacks:
    def test_are_ordered_by_where_they_lie(self, series: Path) -> None:
        stack, _ = read_stack([series])
        assert [one.file.name for one in stack.slices] == ["d", "c", "b", "a"]
        assert stack.size == (4, HEIGHT, WIDTH)
        assert stack.distance == pytest.approx(2.5)

    def test_one_of_several_is_named(self, series: Path, tmp_path: Path) -> None:
        other = write_slice(tmp_path / "scout", 0, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        with pytest.raises(
            UsageError, match=r"holds 2 stacks; say with --stack which one: 1: 4 of 53 x 37 .*; 2: 1 of"
        ):
            read_stack([series, other])
        assert read_stack([series, other], 2)[0].slices[0].file == other
        with pytest.raises(UsageError, match="--stack 3: there are 2"):
            read_stack([series, other], 3)

    def test_a_directory_stands_for_its_folder(self, series: Path, tmp_path: Path) -> None:
        (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
        write_slice(tmp_path / "x", 1)
        assert len(read_stack([tmp_path / "DICOMDIR"])[0].slices) == 1

    def test_uneven_and_doubled_places_are_said(self, tmp_path: Path) -> None:
        for place in (0, 1, 4):
            write_slice(tmp_path / str(place), place)
        stack, notes = read_stack([tmp_path])
        assert stack.distance is None
        assert stack.thickness == 2.5
        assert "even distances" in notes[0]
        write_slice(tmp_path / "again", 4)
        assert "at one place" in read_stack([tmp_path])[1][0]

    def test_nothing_there(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("no scan")
        with pytest.raises(InputError, match="no DICOM images there"):
            read_stack([tmp_path])
        with pytest.raises(InputError, match="no such file or folder"):
            read_stack([tmp_path / "gone"])


def test_a_folder_of_scans_is_not_one_image(series: Path, grey: Path, tmp_path: Path, in_process: Command) -> None:
    done = in_process("run", series, "--model", grey, "--out", tmp_path / "out")
    assert done.returncode == 42
    assert f"tileseg scan {series} --out" in done.stderr
