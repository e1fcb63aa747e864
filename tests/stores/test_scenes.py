"""Scenes on servers: the same pixels as from a file, and one line for whatever goes wrong."""

import pickle
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from buckets import KEY, forget_stores
from fakes import smooth_noise, write_scene
from unreliable import Unreliable

from tileseg import RunSpec, run
from tileseg.errors import InputError, Unreachable, UsageError
from tileseg.run.prepare import prepare
from tileseg.source.protocol import Joining, ReadRequest
from tileseg.source.scene import TILES, open_scene
from tileseg.storage.place import Url, parse_place
from tileseg.window import Window

WINDOWS = (Window(0, 0, 301, 403), Window(17, 200, 140, 203), Window(290, 3, 11, 70))


@pytest.fixture
def scene(bucket, scene_file) -> str:
    bucket.put("scenes/scene.tif", scene_file)
    return bucket.url("scenes/scene.tif")


def same_pixels(path, file: Path) -> None:
    there, here = open_scene(path, expected=3), open_scene(file, expected=3)
    assert there.grid == here.grid
    for window in WINDOWS:
        for found, expected in zip(pickle.loads(pickle.dumps(there)).read(window), here.read(window), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_scene_on_s3_has_the_pixels_of_the_file(scene, scene_file) -> None:
    same_pixels(scene, scene_file)
    assert open_scene(Url.parse(scene), expected=3).path == scene


def test_a_scene_on_a_web_server(bucket, scene, scene_file) -> None:
    same_pixels(f"{bucket.endpoint}/{bucket.name}/scenes/scene.tif", scene_file)


def test_names_with_blanks_and_signs(bucket, scene_file) -> None:
    bucket.put("über den Dächern/50% +1.tif", scene_file)
    same_pixels(bucket.url("über den Dächern/50% +1.tif"), scene_file)


def test_a_signature_is_used_but_never_shown(bucket, scene, scene_file, model, tmp_path) -> None:
    signed = bucket.client.generate_presigned_url(
        "get_object", Params={"Bucket": bucket.name, "Key": "scenes/scene.tif"}, ExpiresIn=600
    )
    signature = signed.partition("ignature=")[2].partition("&")[0]
    assert signature
    same_pixels(signed, scene_file)
    report = run(RunSpec.parse({"scene": signed, "model": str(model), "out": tmp_path / "run", "workers": 0}))
    written = [path for path in report.folder.rglob("*") if path.is_file()]
    assert any(b"scenes/scene.tif" in path.read_bytes() for path in written)
    for hidden in (signature.encode(), b"Signature", KEY.encode()):
        assert not [path for path in written if hidden in path.read_bytes()]
    with Unreliable(bucket.port, always=403) as server:
        refused = signed.replace(bucket.endpoint, server.address)
        with pytest.raises(InputError, match="access denied") as raised:
            open_scene(refused, expected=3)
        assert signature not in str(raised.value)


def test_a_run_gives_the_same_bytes(scene, scene_file, model, tmp_path) -> None:
    """That workers of their own processes read scenes there, test_outputs.py shows."""
    options = {"model": str(model), "block": 128, "precision": "float32"}
    runs = [
        run(RunSpec.parse({"scene": where, "out": tmp_path / name, "workers": 0, **options})).folder
        for where, name in ((scene, "far"), (scene_file, "near"))
    ]
    far, near = (
        {
            str(p.relative_to(folder)): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file() and ".state" not in p.parts
        }
        for folder in runs
    )
    assert far.keys() == near.keys()
    told = ["scene.qgz", "summary.json"]  # which name the scene; QGIS opens no scene of a store
    assert sorted(name for name in far if far[name] != near[name]) == told


def test_the_usual_folder_is_named_after_the_scene() -> None:
    assert RunSpec.parse({"scene": "s3://bucket/a/b.c.tif"}).folder == Path("b.c.tileseg")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://{bucket}/none.tif", "no such object or bucket"),
        ("s3://no-such-bucket/none.tif", "no such object or bucket"),
        ("s3://{bucket}/notes.md", "no raster"),
        ("s3://{bucket}/virtual.vrt", "no raster that is read from a server"),
        ("s3://{bucket}/nothing.tif", r"is empty \(0 bytes\)"),
        ("s3://{bucket}/half.tif", "truncated"),
        ("{endpoint}/{bucket}/none.tif", "no such object"),
    ],
)
def test_unusable_scenes_are_told_in_one_line(bucket, scene_file, address, told) -> None:
    bucket.put("notes.md", b"dear reader")
    bucket.put("virtual.vrt", b'<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    bucket.put("nothing.tif", b"")
    whole = scene_file.read_bytes()
    bucket.put("half.tif", whole[: len(whole) // 2])
    with pytest.raises(InputError, match=told) as raised:
        open_scene(address.format(bucket=bucket.name, endpoint=bucket.endpoint), expected=3)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 42


@pytest.mark.parametrize(
    "address", ["ftp://host/a.tif", "s3:///a.tif", "https://me:secret@host/a.tif", "s3://bucket/../a.tif"]
)
def test_addresses_that_are_none(address) -> None:
    with pytest.raises(UsageError, match="--scene") as raised:
        RunSpec.parse({"scene": address})
    assert "secret" not in str(raised.value)


def test_without_credentials(bucket, scene, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_stores()
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID") as raised:
        open_scene(scene, expected=3)
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    forget_stores()
    assert open_scene(scene, expected=3).read(WINDOWS[2])[1].all()


def test_who_may_not_is_told_so(bucket, scene, monkeypatch) -> None:
    with Unreliable(bucket.port, always=403) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        forget_stores()
        with pytest.raises(InputError, match="access denied"):
            open_scene(scene, expected=3)


def test_a_server_that_is_down_may_come_back(bucket, scene, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.storage.patience._PAUSES", ())
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        forget_stores()
        with pytest.raises(Unreachable, match="does not answer") as raised:
            open_scene(scene, expected=3)
    assert raised.value.exit_code == 1


def test_a_server_that_serves_no_parts_of_files(bucket, scene_file) -> None:
    """Python's own does not. Trying again would be useless."""
    handler = partial(SimpleHTTPRequestHandler, directory=scene_file.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(
                InputError, match=r"does not serve parts of files \(byte ranges\); copy the file"
            ) as raised:
                open_scene(f"http://127.0.0.1:{server.server_port}/scene.tif", expected=3)
        finally:
            server.shutdown()
    assert raised.value.exit_code == 42


def test_a_scene_that_changes_while_it_is_read(bucket, scene, tmp_path) -> None:
    opened = open_scene(scene, expected=3)
    opened.read(WINDOWS[0])
    other = write_scene(tmp_path / "other.tif", smooth_noise(301, 403, 3, seed=9))
    bucket.put("scenes/scene.tif", other)
    with pytest.raises(InputError, match="has changed since the run began"):
        opened.read(WINDOWS[1])
    same_pixels(scene, other)
    bucket.client.delete_object(Bucket=bucket.name, Key="scenes/scene.tif")
    with pytest.raises(InputError, match=r"cannot be read any more|no such object"):
        opened.read(WINDOWS[1])


def test_another_scene_at_the_same_address_is_refused(bucket, scene, model, tmp_path) -> None:
    spec = RunSpec.parse({"scene": scene, "model": str(model), "out": tmp_path / "run", "workers": 0})
    before = prepare(spec).identity["scene"]
    assert prepare(spec).identity["scene"] == before
    run(spec)
    bucket.put("scenes/scene.tif", write_scene(tmp_path / "other.tif", smooth_noise(301, 403, 3, seed=9)))
    with pytest.raises(UsageError, match="made of the scene as it was before it changed"):
        run(spec)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_server_that_fails_and_stalls_now_and_then(bucket, scene, scene_file, monkeypatch, seed) -> None:
    monkeypatch.setenv("TILESEG_HTTP_TIMEOUT", "2")
    with Unreliable(bucket.port, share=0.25, seed=seed) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        forget_stores()
        same_pixels(scene, scene_file)
        same_pixels(f"{server.address}/{bucket.name}/scenes/scene.tif", scene_file)
        assert server.spoilt.total() > 3


class TestManyFiles:
    """A list of addresses, a folder and a pattern on an object store are one scene."""

    @pytest.fixture
    def tiles(self, bucket, tmp_path) -> np.ndarray:
        pixels = smooth_noise(90, 130, 3)
        for left in (0, 70):
            part = write_scene(tmp_path / f"{left}.tif", pixels[:, left : left + 70])
            with rasterio.open(part, "r+") as file:
                file.transform = file.transform @ Affine.translation(left, 0)
            bucket.put(f"many/{left}.tif", part)
        bucket.put("many/tiles.txt", b"0.tif\n" + bucket.url("many/70.tif").encode())
        return pixels

    def test_however_they_are_named(self, bucket, tiles, tmp_path) -> None:
        listed = tmp_path / "tiles.txt"
        listed.write_text("".join(f"{bucket.url(f'many/{left}.tif')}\n" for left in (0, 70)))
        for named in (listed, bucket.url("many"), bucket.url("many/*.tif"), bucket.url("many/tiles.txt")):
            scene = open_scene(parse_place(str(named)), expected=3)
            np.testing.assert_array_equal(scene.read(Window(3, 20, 80, 105))[0], tiles[3:83, 20:125])
            assert pickle.loads(pickle.dumps(scene)) == scene

    def test_one_that_is_not_there(self, bucket, tiles, tmp_path) -> None:
        listed = tmp_path / "tiles.txt"
        listed.write_text("".join(f"{bucket.url(f'many/{name}.tif')}\n" for name in ("0", "gone")))
        with pytest.raises(InputError, match=r"many/gone\.tif: .*--missing nodata"):
            open_scene(listed, expected=3)
        scene = TILES.open(listed, ReadRequest(3, joining=Joining(missing="nodata")))
        np.testing.assert_array_equal(scene.read(scene.grid.extent)[0], tiles[:, :70])

    def test_a_folder_without_rasters(self, bucket) -> None:
        with pytest.raises(InputError, match=r"nothing-here"):
            open_scene(parse_place(bucket.url("nothing-here")), expected=3)
