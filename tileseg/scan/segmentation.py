"""Labels as a DICOM segmentation, which viewers lay over the images that it belongs to."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tileseg.errors import UsageError
from tileseg.scan.volume import NoVolume, Volume
from tileseg.source.dicom_header import pydicom_complaints, pydicom_module

if TYPE_CHECKING:
    from pydicom import Dataset

_KEPT = {
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
    "SpacingBetweenSlices", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ImageType",
    "DimensionOrganizationSequence", "DimensionIndexSequence", "PositionReferenceIndicator",
}  # fmt: skip
"""What a segmentation needs to know of its images; of the patient it is nothing but which study it is."""

_PERSONAL = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What every DICOM object says of the patient and the study: empty, unless it is asked for."""

_SCHEME = "99TILESEG"


def write_segmentation(volume: Volume, path: Path, model: str, *, identified: bool = False) -> None:
    """Write a segmentation (binary) with a segment for each class that is not background.

    ``model``: what made it. ``identified``: with the patient's name, number and dates as the images have them, which a
    PACS may want; without, the study is known by its UID alone. Raises NoVolume where the images do not say enough,
    UsageError where highdicom is missing.
    """
    try:
        import highdicom
        from highdicom.color import CIELabColor
    except ImportError:
        raise UsageError('--write seg needs highdicom: pip install "tileseg[dicom]"') from None
    warnings.filterwarnings("ignore", module="highdicom")
    from pydicom.sr.codedict import codes

    images = [_image(file, identified=identified) for file in dict.fromkeys(one.file for one in volume.stack.slices)]
    _check(volume, images)
    wanted = [(i, info) for i, info in enumerate(volume.classes) if not info.background]
    numbers = np.zeros(256, np.uint8)
    for number, (i, _) in enumerate(wanted, 1):
        numbers[i] = number
    labels = numbers[np.asarray(volume.labels)]
    if not labels.any():
        raise NoVolume("no class but background occurs")
    made_by = highdicom.AlgorithmIdentificationSequence(
        name=model[:64], family=codes.DCM.ArtificialIntelligence, version=version("tileseg")
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=info.name[:64],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=highdicom.sr.CodedConcept(str(i), _SCHEME, info.name[:64]),
            algorithm_type="AUTOMATIC",
            algorithm_identification=made_by,
            display_color=CIELabColor.from_rgb(*(int(info.color[at : at + 2], 16) for at in (1, 3, 5))),
        )
        for number, (i, info) in enumerate(wanted, 1)
    ]
    with pydicom_complaints(str(path.name)):
        found = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=labels,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=9000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="tileseg",
            manufacturer_model_name="tileseg",
            software_versions=version("tileseg"),
            device_serial_number="0",
            content_label="TILESEG",
        )
        found.save_as(path)


def _image(file: Path, *, identified: bool) -> Dataset:
    """What a segmentation takes over of an image."""
    pydicom = pydicom_module(str(file))
    with pydicom_complaints(str(file)):
        tags = sorted({*_KEPT, *(_PERSONAL if identified else ())})
        image: Dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=tags)
        for name in _PERSONAL:
            if name not in image:
                setattr(image, name, "" if name != "PatientName" else None)
        if not hasattr(image, "file_meta") or "TransferSyntaxUID" not in image.file_meta:
            raise NoVolume("images lack the head of DICOM files")
        return image


def _check(volume: Volume, images: list[Dataset]) -> None:
    first = volume.stack.slices[0].header
    lacking = [name for name in ("StudyInstanceUID", "FrameOfReferenceUID") if any(name not in each for each in images)]
    if lacking or first.position is None or first.orientation is None or volume.stack.pixel is None:
        raise NoVolume(f"images do not say where they lie{f' ({lacking[0]})' if lacking else ''}")
    if len(images) > 1 and any(one.header.frames > 1 for one in volume.stack.slices):
        raise NoVolume("the stack lies in several files of several frames")
    if len(images) == 1 and volume.stack.slices[0].header.frames != len(volume.stack.slices):
        raise NoVolume("only some of the file's frames are in the stack")
