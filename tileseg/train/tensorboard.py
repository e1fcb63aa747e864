"""TensorBoard's event files, without TensorBoard: TFRecords of Event messages that hold one scalar each.

The formats: tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto, and TFRecord (length, masked
CRC-32C of the length, data, masked CRC-32C of the data).
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Self


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)


_CRC = _table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


class EventFile:
    """One events file, open for appending; a training that goes on opens another."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{int(time.time())}.{step}.tileseg").open("ab")
        self._record(_field(3, b"brain.Event:2"))
        if step:
            # SessionLog START: events of this and later steps in older files are a killed run's, and void.
            self._record(_varint(2 << 3) + _varint(step + 1) + _field(7, b"\x08\x01"))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add one value of a curve."""
        summary = _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
        self._record(_varint(2 << 3) + _varint(step) + _field(5, _field(1, summary)))

    def flush(self) -> None:
        """Let readers see what was added."""
        self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, event: bytes) -> None:
        data = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(data))
        self._file.write(length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data)))
