"""ONNX graphs as files of OpenVINO."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tileseg.errors import InputError, first_line
from tileseg.nn.onnx_file import write_onnx

if TYPE_CHECKING:
    import onnx


def write_openvino(model: onnx.ModelProto, path: Path, *, half: bool) -> None:
    """Write ``path`` (``.xml``) and the weights beside it (``.bin``), in float16 if ``half``.

    Raises InputError if OpenVINO does not take the graph.
    """
    from tileseg.nn.openvino_quiet import openvino

    with TemporaryDirectory(prefix="tileseg-") as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(model, source)
        try:
            # Not convert_model(), which does the same and reports it to its makers.
            openvino.save_model(openvino.Core().read_model(source), path, compress_to_fp16=half)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot convert the model: {first_line(error)}") from error
