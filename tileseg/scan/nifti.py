"""Labels as NIfTI, in the patient's coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tileseg.errors import UsageError
from tileseg.scan.volume import NoVolume, Volume


def write_nifti(volume: Volume, path: Path) -> None:
    """Write class ids, 255 without data, as ``.nii.gz``.

    Voxels are (column, row, slice); their places are in millimetres to the right, front and top, which is NIfTI's way,
    where DICOM has left, back and top. Raises NoVolume where slices lie on no lattice, UsageError where nibabel is
    missing.
    """
    try:
        import nibabel
    except ImportError:
        raise UsageError('--write nifti needs nibabel: pip install "tileseg[dicom]"') from None
    image = nibabel.Nifti1Image(np.asarray(volume.labels).transpose(2, 1, 0), affine_of(volume))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"labels by tileseg"
    nibabel.save(image, path)


def affine_of(volume: Volume) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(4, 4): (column, row, slice) of a voxel's centre -> millimetres to the right, front and top. Raises NoVolume."""
    stack, first = volume.stack, volume.stack.slices[0]
    if stack.pixel is None or first.header.orientation is None or first.header.position is None:
        raise NoVolume("images do not say where their pixels lie")
    distance = stack.distance if len(stack.slices) > 1 else stack.thickness or 1.0
    if distance is None:
        raise NoVolume("slices do not lie at even distances")
    down, across = stack.pixel
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.header.orientation[:3], across)
    affine[:3, 1] = np.multiply(first.header.orientation[3:], down)
    # Slices may be shifted against each other (a tilted gantry): the last one says where they go.
    last = stack.slices[-1].header.position
    steps = len(stack.slices) - 1
    along = np.multiply(first.normal, distance)
    affine[:3, 2] = np.subtract(last, first.header.position) / steps if steps and last is not None else along
    affine[:3, 3] = first.header.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
