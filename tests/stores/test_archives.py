"""Archives on an object store: what addresses stand for, and a batch from a bucket into a bucket."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from buckets import Bucket
from fakes import smooth_noise, write_scene
from unreliable import Unreliable

from tileseg.batch.archive import run_batch
from tileseg.batch.catalogue import write_catalogue
from tileseg.batch.sources import read_sources
from tileseg.batch.spec import BatchSpec
from tileseg.errors import InputError, Unreachable, UsageError
from tileseg.storage.place import Url

ITEM = {
    "type": "Feature", "stac_version": "1.0.0", "id": "one", "geometry": None, "links": [],
    "properties": {"datetime": "2026-05-01T10:00:00Z"},
    "assets": {"image": {"href": "./one.tif", "type": "image/tiff", "roles": ["data"]}},
}  # fmt: skip


@pytest.fixture
def archive(bucket) -> Bucket:
    for key in ("a/one.tif", "a/deep/two.TIF", "a/notes.md", "a/.hidden.tif", "a/old.tileseg/labels.tif", "ab/x.tif"):
        bucket.put(key, b"II*\0")
    bucket.put("a/list.txt", f"one.tif\n# none\n{bucket.url('ab/x.tif')}\n".encode())
    bucket.put("a/table.csv", b'scene,bands\none.tif,"1,2,3"\n')
    return bucket


def keys(archive, *sources: str) -> list[str]:
    return [entry.scene.removeprefix(f"s3://{archive.name}/") for entry in read_sources(sources)]


def test_what_addresses_stand_for(archive) -> None:
    assert keys(archive, archive.url("a/")) == ["a/deep/two.TIF", "a/one.tif"]
    assert keys(archive, archive.url("a/*.tif")) == ["a/one.tif"]
    assert keys(archive, archive.url("a*/**/*.[tT]*[fF]")) == ["a/deep/two.TIF", "a/one.tif", "ab/x.tif"]
    assert keys(archive, archive.url("a/list.txt")) == ["a/one.tif", "ab/x.tif"]
    assert keys(archive, archive.url("a/table.csv")) == ["a/one.tif"]
    assert read_sources([archive.url("a/table.csv")])[0].options == {"bands": "1,2,3"}
    assert keys(archive, archive.url("a/one.tif"), archive.url("a/")) == ["a/one.tif", "a/deep/two.TIF"]
    assert keys(archive, "https://host/a/b.tif?signature=1") == ["https://host/a/b.tif?signature=1"]
    with pytest.raises(UsageError, match="no scenes there"):
        read_sources([archive.url("nothing/")])
    # As in a folder, a list names its scenes from where it lies.
    archive.put("a/up.txt", b"../ab/x.tif\n./deep/../one.tif\n")
    assert keys(archive, archive.url("a/up.txt")) == ["ab/x.tif", "a/one.tif"]
    # GeoPackages and virtual rasters are not read from servers, and the first of these is what a batch writes.
    for key in ("a/index.gpkg", "a/virtual.vrt"):
        archive.put(key, b"SQLite")
    assert keys(archive, archive.url("a/")) == ["a/deep/two.TIF", "a/one.tif"]


@pytest.mark.parametrize("source", ["s3://no-such-bucket/a/", "s3://no-such-bucket/**/t*.tif", "s3://{}/a/none.txt",
                                    "s3://{}/a/none.json", "http://127.0.0.1:{port}/{}/none.json"])  # fmt: skip
def test_what_is_not_there_is_told_in_one_line(archive, source) -> None:
    with pytest.raises(InputError, match="no such object or bucket") as raised:
        read_sources([source.format(archive.name, port=archive.port)])
    assert "\n" not in str(raised.value)


def test_pages_of_web_servers(archive, monkeypatch) -> None:
    """Items and lists, also of servers that do not say how long they are; and of those that do not answer."""
    monkeypatch.setattr("tileseg.storage.patience._PAUSES", ())
    item = json.dumps({**ITEM, "links": []}).encode()

    class Pieces(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()  # HTTP 1.0: the page ends with the connection
            self.wfile.write(item if self.path.endswith("json?key=1") else b"b.tif\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pieces) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a"
        try:
            found = read_sources([f"{address}/item.json?key=1", f"{address}/list.txt"])
        finally:
            server.shutdown()
    assert [entry.scene for entry in found] == [f"{address}/one.tif", f"{address}/b.tif"]
    for source in ("item.json", "list.txt"):
        with pytest.raises(Unreachable, match=f"{source}: the server does not answer"):
            read_sources([f"{address}/{source}"])
    with (
        Unreliable(archive.port, always=403) as refusing,
        pytest.raises(InputError, match=r"refused by the server \(403"),
    ):
        read_sources([f"{refusing.address}/a/item.json"])
    with Unreliable(archive.port, always=500) as failing, pytest.raises(Unreachable, match=r"the server fails \(500"):
        read_sources([f"{failing.address}/a/item.json"])


def test_items_of_stac_are_read_from_a_bucket(archive) -> None:
    archive.put("a/item.json", json.dumps(ITEM).encode())
    (entry,) = read_sources([archive.url("a/item.json")])
    assert entry.scene == archive.url("a/one.tif")
    assert entry.taken == "2026-05-01T10:00:00Z"


def test_from_a_bucket_into_a_bucket(bucket, model, tmp_path) -> None:
    for number, size in enumerate(((90, 130), (130, 90))):
        bucket.put(f"in/{number}.tif", write_scene(tmp_path / "scene.tif", smooth_noise(*size, 3, seed=number)))
    bucket.put("in/bad.tif", b"II*\0 and no more")
    entries = read_sources([bucket.url("in/")])
    options = {"model": str(model), "workers": 0, "precision": "float32", "block": 64}
    spec = BatchSpec(entries, Url.parse(bucket.url("out")), options)
    report = run_batch(spec)
    assert report.exit_code == 42
    assert {result.scene[-5:]: result.status for result in report.results} == {
        "0.tif": "done", "1.tif": "done", "d.tif": "unusable",
    }  # fmt: skip
    assert json.loads(bucket.get("out/batch.json"))["counts"]["done"] == 2
    assert run_batch(spec).counts["skipped"] == 2
    assert write_catalogue(spec.out) == 2
    written = bucket.keys("out/")
    assert {"out/collection.json", "out/index.gpkg", "out/0.tileseg/item.json", "out/batch.csv"} <= set(written)
    assert "labels" in json.loads(bucket.get("out/1.tileseg/item.json"))["assets"]


def test_in_a_bucket_too_no_scene_takes_the_folder_of_another(bucket, model, tmp_path) -> None:
    for number, folder in enumerate("mc"):
        bucket.put(f"{folder}/one.tif", write_scene(tmp_path / "scene.tif", smooth_noise(70, 90, 3, seed=number)))
    options = {"model": str(model), "workers": 0, "precision": "float32", "block": 64}

    def batch(*sources: str) -> list[tuple[str, str]]:
        spec = BatchSpec(
            read_sources([bucket.url(source) for source in sources]), Url.parse(bucket.url("out")), options
        )
        return [(result.status, result.folder) for result in run_batch(spec).results]

    assert batch("m/") == [("done", "one.tileseg")]
    ((status, folder),) = batch("c/")
    assert (status, folder != "one.tileseg") == ("done", True)
    assert batch("c/", "m/") == [("skipped", folder), ("skipped", "one.tileseg")]
