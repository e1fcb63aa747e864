"""Lists, indexes and items of STAC name the files of a scene, and when they were taken."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import shapely
from fakes import smooth_noise, write_scene

from tileseg.errors import InputError, UsageError
from tileseg.source.protocol import Joining, ReadRequest
from tileseg.source.scene import TILES, opener_of
from tileseg.source.tile_list import Tile, is_many
from tileseg.source.tile_list import tiles_of as tiles_for
from tileseg.storage.place import parse_places

NAMES = ["b.tif", "a.tif", "deep/c d.tif"]
"""In an order that is not that of names."""
MOMENTS = [datetime(2024, 5, day, 7, 8, 9, tzinfo=UTC) for day in (3, 9, 6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "deep").mkdir()
    for i, name in enumerate(NAMES):
        write_scene(folder / name, smooth_noise(40, 56, 3, seed=i))
    return folder


def index(folder: Path, names: list[str] = NAMES, column: str = "location") -> geopandas.GeoDataFrame:
    box = shapely.box(500_000, 3_999_980, 500_028, 4_000_000)
    data = {"number": range(len(names)), column: names, "datetime": MOMENTS[: len(names)]}
    return geopandas.GeoDataFrame(data, geometry=[box] * len(names), crs="EPSG:32637")


def write_index(path: Path, frame: geopandas.GeoDataFrame) -> Path:
    if path.suffix in (".parquet", ".geoparquet"):
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


def collection(folder: Path, *, extra: bool = False) -> Path:
    items = []
    for i, (name, moment) in enumerate(zip(NAMES, MOMENTS, strict=True)):
        item = pystac.Item(f"item-{i}", None, None, moment, {})
        item.add_asset("visual", pystac.Asset(name, media_type=pystac.MediaType.COG, roles=["data"]))
        item.add_asset("thumbnail", pystac.Asset("t.png", media_type="image/png", roles=["thumbnail"]))
        if extra:
            item.add_asset("nir", pystac.Asset("n.tif", media_type=pystac.MediaType.COG, roles=["data"]))
        items.append(item)
    path = folder / f"items{'-2' * extra}.json"
    path.write_text(json.dumps(pystac.ItemCollection(items).to_dict()))
    return path


def tiles_of(named: object, **joining: str) -> tuple[Tile, ...]:
    return tiles_for(named, ReadRequest(3, names=("red", "green", "blue"), joining=Joining(**joining)))  # type: ignore[arg-type]


def named_in(path: Path, **joining: str) -> list[str]:
    return [os.path.relpath(str(tile.place), path.parent) for tile in tiles_of(path, **joining)]


class TestIndexes:
    @pytest.mark.parametrize("ending", [".gpkg", ".fgb", ".shp", ".parquet", ".geoparquet", ".geojson"])
    def test_of_any_format(self, folder: Path, tmp_path: Path, ending: str) -> None:
        frame = index(folder)
        if ending in (".fgb", ".shp", ".geojson"):  # those sort by place, or shorten names and times
            frame["datetime"] = [moment.strftime("%Y-%m-%d") for moment in MOMENTS]
        path = write_index(folder / f"index{ending}", frame)
        tiles = tiles_of(path)
        assert opener_of(path) is TILES
        assert sorted(named_in(path)) == sorted(NAMES)
        if ending != ".fgb":
            assert named_in(path) == NAMES
        taken = {Path(str(tile.place)).name: tile.taken for tile in tiles}
        for name, moment in zip(NAMES, MOMENTS, strict=True):
            assert abs(taken[Path(name).name] - moment.timestamp()) < 86400
        scene = opener_of(path).open(path, ReadRequest(3))
        expected = smooth_noise(40, 56, 3, seed=[NAMES.index(named_in(path)[0])][0])
        assert np.array_equal(scene.read(scene.grid.extent)[0], expected)

    def test_the_newest_by_its_column(self, folder: Path) -> None:
        path = write_index(folder / "newest.gpkg", index(folder))
        scene = opener_of(path).open(path, ReadRequest(3, joining=Joining(on_top="newest")))
        assert np.array_equal(scene.read(scene.grid.extent)[0], smooth_noise(40, 56, 3, seed=1))

    def test_gdals_description_of_one(self, folder: Path) -> None:
        write_index(folder / "described.gpkg", index(folder, column="where"))
        for name in ("x.gti", "x.xml"):
            (folder / name).write_text(
                "<GDALTileIndexDataset><IndexDataset>described.gpkg</IndexDataset><IndexLayer>described</IndexLayer>"
                "<LocationField>where</LocationField></GDALTileIndexDataset>"
            )
            assert named_in(folder / name) == NAMES

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("<ResX>3</ResX>", "its <ResX> is not understood"),
            ("<IndexDataset>gone.gpkg</IndexDataset>", r"refers to 'gone\.gpkg', which is no file"),
            ("<IndexDataset/>", "which is no file"),
            ("<IndexDataset>", "is no XML"),
        ],
    )
    def test_descriptions_that_are_not_understood(self, tmp_path: Path, text: str, match: str) -> None:
        (tmp_path / "x.gti").write_text(f"<GDALTileIndexDataset>{text}</GDALTileIndexDataset>")
        with pytest.raises(InputError, match=match):
            tiles_of(tmp_path / "x.gti")

    def test_a_description_with_a_dtd(self, tmp_path: Path) -> None:
        (tmp_path / "x.gti").write_text(
            '<GDALTileIndexDataset><!DOCTYPE a [<!ENTITY b "c">]><IndexDataset>&b;</IndexDataset>'
            "</GDALTileIndexDataset>"
        )
        with pytest.raises(InputError, match="DTD"):
            tiles_of(tmp_path / "x.gti")

    def test_addresses_in_gdals_words(self, tmp_path: Path) -> None:
        names = ["/vsis3/bucket/a.tif", "/vsicurl/https://host/b.tif", "s3://bucket/c.tif"]
        path = write_index(tmp_path / "i.gpkg", index(tmp_path, names))
        assert [str(tile.place) for tile in tiles_of(path)] == [
            "s3://bucket/a.tif", "https://host/b.tif", "s3://bucket/c.tif",
        ]  # fmt: skip

    @pytest.mark.parametrize("ending", [".gpkg", ".parquet"])
    def test_vector_files_that_are_none(self, tmp_path: Path, ending: str) -> None:
        path = write_index(tmp_path / f"i{ending}", index(tmp_path, column="building"))
        with pytest.raises(InputError, match="names no rasters: expected a tile index"):
            tiles_of(path)

    @pytest.mark.parametrize("ending", [".gpkg", ".parquet", ".fgb", ".shp", ".geojson"])
    def test_files_that_are_broken(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / f"i{ending}").write_bytes(b"PAR1 or not")
        with pytest.raises(InputError, match=rf"i\{ending}"):
            opener_of(tmp_path / f"i{ending}").open(tmp_path / f"i{ending}", ReadRequest(3))


class TestStac:
    def test_an_item_collection(self, folder: Path) -> None:
        path = collection(folder)
        assert named_in(path) == NAMES
        assert [tile.taken for tile in tiles_of(path)] == [moment.timestamp() for moment in MOMENTS]
        scene = opener_of(path).open(path, ReadRequest(3, joining=Joining(on_top="newest")))
        assert np.array_equal(scene.read(scene.grid.extent)[0], smooth_noise(40, 56, 3, seed=1))

    def test_of_several_assets_one_is_chosen(self, folder: Path) -> None:
        path = collection(folder, extra=True)
        with pytest.raises(UsageError, match=r"item-0: 2 assets for a raster; --asset: one of visual, thumbnail, nir"):
            tiles_of(path)
        assert named_in(path, asset="visual") == NAMES


class TestLists:
    def test_files_are_named_once_and_lists_may_be_mixed(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "l.txt").write_text(f"{folder}/a.tif\n# no\n{folder}/b.tif\n{folder}/a.tif\n")
        tiles = tiles_of(parse_places([tmp_path / "l.txt", folder / "deep"]))
        assert [Path(str(tile.place)).name for tile in tiles] == ["a.tif", "b.tif", "c d.tif"]

    def test_what_is_one_file_and_what_is_many(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a[1].tif").touch()
        for one in (folder / "a.tif", tmp_path / "a[1].tif", tmp_path / "none", "s3://bucket/a.tif", "https://x/a.tif"):
            assert not is_many(one), one
        for many in (folder, f"{folder}/*.tif", "s3://bucket/tiles", "s3://bucket/**/*.tif", "https://x/items.json"):
            assert is_many(many), many
