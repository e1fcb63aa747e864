"""DICOM files that are made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PERSONAL = {
    "PatientName": "Qvirrel^Zebedee", "PatientID": "MRN-7781-QX", "PatientBirthDate": "19310417", "PatientSex": "O",
    "PatientAge": "095Y", "PatientAddress": "Thistlewick Lane 9", "OtherPatientIDs": "ALT-55102",
    "PatientComments": "afraid of needles", "AccessionNumber": "ACC-90210", "InstitutionName": "Mercywood Clinic",
    "ReferringPhysicianName": "Osprey^Ottoline", "OperatorsName": "Tamsin^Teal", "StudyID": "STUDY-4471",
    "StudyDate": "19990321", "StudyTime": "134501.25", "StudyDescription": "thorax, query nodule of Z.Q.",
    "SeriesDescription": "lungs of Zebedee", "StationName": "CTSUITE-QZ", "DeviceSerialNumber": "SN-QZ-8812",
}  # fmt: skip
"""Attributes by which somebody could be known, and values that occur nowhere else."""


def write_dicom(path: Path, stored: npt.NDArray[np.generic], **more: Any) -> Path:
    """Write stored values (y, x), (y, x, 3) or, with ``NumberOfFrames``, frames of them, as a CT or what ``more`` says.

    ``syntax``: how the pixels are compressed.
    """
    syntax = more.pop("syntax", ExplicitVRLittleEndian)
    frames = int(more.get("NumberOfFrames", 0))
    shape = stored.shape[1:] if frames else stored.shape
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    made.Modality = "CT"
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = 1 if len(shape) == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if len(shape) == 2 else "RGB"
    if len(shape) == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8 * stored.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in {**PERSONAL, **more}.items():
        setattr(made, name, value)
    made.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes() + b"\0" * (stored.nbytes % 2)
    made["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    if syntax != ExplicitVRLittleEndian:
        made.compress(syntax)
    made.save_as(path, enforce_file_format=True)
    return path
