"""The same operations on a folder and on a bucket give the same; a mosaic has the same bytes in both."""

import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from buckets import forget_stores
from fakes import CLASSES

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.mosaic import Mosaic, create_mosaic
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic
from tileseg.window import Window, tile

GRID = Grid(300, 420, Affine(0.5, 0, 5e5, 0, -0.5, 4e6), None)


@pytest.fixture(params=["folder", "bucket"])
def place(request, bucket, tmp_path) -> Path | Url:
    return tmp_path / "root" if request.param == "folder" else Url.parse(bucket.url("root"))


def test_files(place) -> None:
    at(place).make_folder()
    file = at(place / "one.json")
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read()
    with pytest.raises(FileNotFoundError):
        file.stamp()
    file.remove()
    file.create(b"123456")
    with pytest.raises(FileExistsError):
        file.create(b"another")
    assert file.read() == b"123456"
    assert file.read(2) == b"12"
    assert file.stamp()[0] == 6
    before = file.stamp()
    write_atomic(place / "one.json", "seven..")
    assert file.stamp() != before
    assert file.exists()
    file.remove()
    assert not file.exists()
    file.write(b"")
    assert file.read(4) == b""
    assert file.stamp()[0] == 0


def test_writers_of_one_file_do_not_meet(place) -> None:
    """Threads of one process, and containers whose processes have the same number."""
    at(place).make_folder()
    threads, times = 8, 40

    def write(i: int) -> None:
        together.wait()
        for _ in range(times):
            write_atomic(place / "one.json", str(i) * 1000)

    together = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))
    assert at(place / "one.json").read() in {str(i).encode() * 1000 for i in range(threads)}
    assert list(at(place).names()) == ["one.json"]


def test_folders(place) -> None:
    assert list(at(place).names()) == []
    assert at(place).listed() == ([], [])
    for name in ("b/2", "b/1", "b/c/3", "bb", "a"):
        at((place / name).parent).make_folder()
        at(place / name).write(name.encode())
    assert sorted(at(place).names()) == ["a", "b/1", "b/2", "b/c/3", "bb"]
    files, folders = at(place).listed()
    assert (sorted(files), folders) == (["a", "bb"], ["b"])
    assert list(at(place / "b").contents()) == [("1", b"b/1"), ("2", b"b/2"), ("c/3", b"b/c/3")]
    with at(place / "b").copied() as copy:
        assert (copy / "c/3").read_bytes() == b"b/c/3"
    at(place / "b").remove_tree()
    at(place / "b").remove_tree()
    assert sorted(at(place).names()) == ["a", "bb"]


def test_what_is_made_locally(place) -> None:
    at(place / "deep" / "file.bin").deliver(lambda path: path.write_bytes(b"x" * 3))
    assert at(place / "deep" / "file.bin").read() == b"xxx"
    with at(place).workspace() as desk:
        (desk / "one").write_bytes(b"1")
    assert at(place / "one").read() == b"1"

    def fail() -> None:
        with at(place).workspace() as desk:
            (desk / ".two.partial").write_bytes(b"2")
            raise InputError("no")

    with pytest.raises(InputError):
        fail()
    at(place).check_writable()


def test_a_ledger(place) -> None:
    ledger = Ledger(place / ".state")
    assert ledger.read_run() is None
    assert ledger.done() == set()
    records = [BlockRecord(i, i, {"read": 0.5}, ("note",)) for i in (1203, 7, 0)]
    for record in records:
        ledger.record_done(record)
    at(ledger.fragment(7)).deliver(lambda path: path.write_bytes(b"polygons"))
    assert ledger.done() == {0, 7, 1203}
    assert ledger.record(7) == records[1]
    assert ledger.record(8) is None
    assert [record.index for record in ledger.records()] == [0, 7, 1203]
    assert ledger.without_polygons() == [records[0]]  # 0 had no pixel, so there are none of it
    ledger.take_back(1203)
    assert ledger.done() == {0, 7}


@pytest.mark.parametrize("block", [(128, 128), (96, 120)])
def test_a_mosaic_has_the_same_bytes(bucket, tmp_path, block) -> None:
    places: tuple[Path | Url, ...] = (tmp_path / "mosaic.zarr", Url.parse(bucket.url("mosaic.zarr")))
    random = np.random.default_rng(3)
    cores = tile(Window(0, 0, 300, 420), *block)
    written = [
        (
            random.normal(size=(3, core.height, core.width)).astype(np.float16),
            random.integers(0, 3, (core.height, core.width), np.uint8),
        )
        for core in cores
    ]
    for path in places:
        mosaic = create_mosaic(path, GRID, block, CLASSES, "logits", {"model": "none"})
        for again in (1, 2):  # a block may be written twice
            for core, (logits, labels) in zip(cores, written, strict=True):
                if again == 1 or core.row_off:
                    mosaic.write_block(core, logits, labels)
        mosaic.write_pyramid()
        mosaic.remove_partial()
    files = {name: at(tmp_path / "mosaic.zarr" / name).read() for name in at(places[0]).names()}
    assert bucket.contents("mosaic.zarr") == files
    here, there = (Mosaic(path) for path in places)
    window = Window(90, 100, 77, 150)
    np.testing.assert_array_equal(here.read_labels(window), there.read_labels(window))
    np.testing.assert_array_equal(here.read_logits(window), there.read_logits(window))
    assert there.grid == GRID
    with pytest.raises(InputError, match="not a mosaic of tileseg"):
        _ = Mosaic(Url.parse(bucket.url("nothing.zarr"))).grid


def test_an_object_that_goes_while_it_is_read_is_not_there(bucket, monkeypatch) -> None:
    """The connection breaks in the middle, and the rest cannot be had any more: another process released its lease."""
    asked = []

    class Going(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Range"])
            if len(asked) == 1:
                self.send_response(200)
                self.send_header("Content-Length", "10")
                self.send_header("ETag", '"one"')
                self.send_header("Last-Modified", formatdate(usegmt=True))
                self.end_headers()
                self.wfile.write(b"12345")
            else:
                self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Going) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        forget_stores()
        try:
            with pytest.raises(FileNotFoundError):
                at(Url.parse(bucket.url("lease"))).read()
        finally:
            server.shutdown()
    assert len(asked) == 2
