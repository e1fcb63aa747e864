"""Archives on an object store: what addresses stand for, and a batch from a bucket into a bucket."""

import json

import pytest
from buckets import Bucket
from fakes import smooth_noise, write_scene

from tileseg.batch.archive import BatchSpec, run_batch
from tileseg.batch.catalogue import write_catalogue
from tileseg.batch.sources import read_sources
from tileseg.errors import InputError, UsageError
from tileseg.place import Url


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
    with pytest.raises((UsageError, InputError), match="no such object or bucket"):
        read_sources([archive.url("a/missing.txt")])


def test_items_of_stac_are_read_from_a_bucket(archive) -> None:
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "one", "geometry": None, "links": [],
        "properties": {"datetime": "2026-05-01T10:00:00Z"},
        "assets": {"image": {"href": "./one.tif", "type": "image/tiff", "roles": ["data"]}},
    }  # fmt: skip
    archive.put("a/item.json", json.dumps(item).encode())
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
