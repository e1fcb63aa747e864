"""Which scenes a batch is about."""

import datetime as dt
import json
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
from rasterio.transform import from_origin
from shapely import box

from tileseg.batch.entry import storage
from tileseg.batch.sources import read_sources, shard
from tileseg.errors import UsageError


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "in"
    for name in ("b/x.tif", "a/x.tif", "a/y.JP2", "a/notes.txt", ".hidden/z.tif", "old.tileseg/labels.tif", "w.tif"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(entries, root: Path) -> list[str]:
    return [str(Path(entry.scene).relative_to(root)) for entry in entries]


def test_folders_give_rasters_and_nothing_that_tileseg_wrote(archive) -> None:
    assert names(read_sources([archive]), archive) == ["a/x.tif", "a/y.JP2", "b/x.tif", "w.tif"]


def test_globs_are_sorted_and_scenes_come_once(archive) -> None:
    entries = read_sources([f"{archive}/**/x.tif", archive / "w.tif", f"{archive}/w*"])
    assert names(entries, archive) == ["a/x.tif", "b/x.tif", "w.tif"]


def test_folders_of_equal_stems_differ_in_any_order(archive) -> None:
    folders = {Path(entry.scene): entry.folder for entry in read_sources([archive])}
    assert [folders[archive / name] for name in ("a/y.JP2", "w.tif")] == ["y.tileseg", "w.tileseg"]
    equal = [folders[archive / name] for name in ("a/x.tif", "b/x.tif")]
    assert len({*equal, "x.tileseg"}) == 3
    assert all(name.startswith("x-") for name in equal)
    backwards = read_sources([archive / "w.tif", archive / "b", archive / "a"])
    assert {Path(entry.scene): entry.folder for entry in backwards} == folders


def test_pages_of_a_stack_are_scenes_beside_the_list_that_names_them(archive, monkeypatch) -> None:
    (archive / "l.txt").write_text("GTIFF_DIR:1:a/x.tif\nGTIFF_DIR:2:a/x.tif\nGPKG:w.gpkg:old\n")
    monkeypatch.chdir(archive / "b")
    listed = read_sources([archive / "l.txt", "GTIFF_DIR:1:../a/x.tif"])
    assert [entry.scene for entry in listed[:2]] == [f"GTIFF_DIR:{i}:{archive}/a/x.tif" for i in (1, 2)]
    assert [entry.folder for entry in listed] == ["x-1.tileseg", "x-2.tileseg", "w-old.tileseg"]


def test_a_scene_is_the_same_by_all_ways_that_lead_to_it(archive, monkeypatch) -> None:
    (archive / "lists").mkdir()
    (archive / "lists" / "l.txt").write_text("../a/x.tif\n../lists/../w.tif\n")
    (archive / "link").symlink_to(archive / "a")
    monkeypatch.chdir(archive)
    entries = read_sources(["a/x.tif", "lists/l.txt", "b/../a/x.tif", "link/x.tif", archive / "w.tif"])
    assert [entry.shown for entry in entries] == ["a/x.tif", "w.tif"]
    # After a link, ".." is not the way back.
    (archive / "b" / "deep").mkdir()
    (archive / "away").symlink_to(archive / "b" / "deep")
    (archive / "l.txt").write_text("away/../x.tif\n")
    assert [entry.place for entry in read_sources(["l.txt"])] == [str(archive / "b" / "x.tif")]


def test_links_to_folders_are_followed_but_not_round_and_round(archive, tmp_path) -> None:
    (tmp_path / "share" / "deep").mkdir(parents=True)
    (tmp_path / "share" / "deep" / "far.tif").touch()
    (tmp_path / "share" / "back").symlink_to(tmp_path / "share")
    (archive / "a" / "share").symlink_to(tmp_path / "share")
    assert names(read_sources([archive / "a"]), archive) == ["a/share/deep/far.tif", "a/x.tif", "a/y.JP2"]


def test_geopackages_are_scenes_where_they_hold_rasters(archive) -> None:
    area = geopandas.GeoDataFrame({"n": [1]}, geometry=[box(0, 0, 1, 2)], crs="EPSG:32637")
    area.to_file(archive / "index.gpkg", layer="scenes", engine="pyogrio")
    picture = {"driver": "GPKG", "height": 40, "width": 60, "count": 3, "dtype": "uint8", "crs": "EPSG:3857"}
    with rasterio.open(archive / "z.gpkg", "w", transform=from_origin(0, 0, 1, 1), **picture) as file:
        file.write(np.full((3, 40, 60), 7, np.uint8))
    (archive / "no.gpkg").write_text("something else")  # told of as an unusable scene
    for source in (archive, f"{archive}/*"):
        found = [Path(entry.scene).name for entry in read_sources([source])]
        assert "index.gpkg" not in found
        assert {"no.gpkg", "w.tif", "z.gpkg"} <= set(found)


def test_lists_are_relative_to_themselves(archive) -> None:
    (archive / "a" / "list.txt").write_text("# comment\nx.tif\n\n../w.tif\n")
    entries = read_sources([archive / "a" / "list.txt"])
    assert [Path(entry.scene).resolve() for entry in entries] == [archive / "a" / "x.tif", archive / "w.tif"]


def test_tables_bring_options_of_scenes(archive) -> None:
    (archive / "t.csv").write_text('scene,bands,min-area,datetime\na/x.tif,"3,2,1",,2024-05-06T00:00:00Z\nw.tif,,25,\n')
    first, second = read_sources([archive / "t.csv"])
    assert (first.options, first.taken) == ({"bands": "3,2,1"}, "2024-05-06T00:00:00Z")
    assert (second.options, second.taken) == ({"min_area": "25"}, None)
    (archive / "t.csv").write_text("scene,out\nw.tif,there\n")
    with pytest.raises(UsageError, match="'out' is no option of a scene"):
        read_sources([archive / "t.csv"])
    (archive / "t.csv").write_text("scene,gsd\na/x.tif,\nw.tif,nonsense\n")
    with pytest.raises(UsageError, match=r"t.csv: line 3: gsd: 'nonsense': expected auto, native or metres"):
        read_sources([archive / "t.csv"])
    (archive / "t.csv").write_text("scene,datetime\nw.tif,yesterday\n")
    with pytest.raises(UsageError, match=r"t.csv: line 2: datetime: 'yesterday': expected RFC 3339"):
        read_sources([archive / "t.csv"])
    (archive / "t.csv").write_text("name\nw.tif\n")
    with pytest.raises(UsageError, match="no column of scenes"):
        read_sources([archive / "t.csv"])


def item(name: str, assets: dict[str, pystac.Asset]) -> pystac.Item:
    when = dt.datetime(2024, 5, 6, tzinfo=dt.UTC)
    made = pystac.Item(name, {"type": "Point", "coordinates": [0, 0]}, [0, 0, 0, 0], when, {})
    for key, asset in assets.items():
        made.add_asset(key, asset)
    return made


def raster(href: str, *roles: str) -> pystac.Asset:
    return pystac.Asset(href, media_type="image/tiff; application=geotiff", roles=list(roles))


def test_stac_catalogs_are_followed_and_assets_chosen(archive) -> None:
    catalog = pystac.Catalog("root", "scenes")
    for name in ("one", "two"):
        assets = {"visual": raster(f"./{name}.tif", "visual"), "thumb": raster("./thumb.png", "thumbnail")}
        catalog.add_item(item(name, assets))
    catalog.normalize_and_save(str(archive / "cat"), pystac.CatalogType.SELF_CONTAINED)
    entries = read_sources([archive / "cat" / "catalog.json"])
    assert names(entries, archive / "cat") == ["one/one.tif", "two/two.tif"]
    assert {entry.taken for entry in entries} == {"2024-05-06T00:00:00Z"}
    assert names(read_sources([archive / "cat" / "catalog.json"], "visual"), archive / "cat")[0] == "one/one.tif"
    with pytest.raises(UsageError, match=r"no asset with the key or role 'nir'; --asset: one of visual, thumb"):
        read_sources([archive / "cat" / "catalog.json"], "nir")


def test_stac_item_collections(archive) -> None:
    both = {"red": raster("red.tif", "data"), "nir": raster("nir.tif", "data")}
    (archive / "items.json").write_text(json.dumps(pystac.ItemCollection([item("one", both)]).to_dict()))
    with pytest.raises(UsageError, match="2 assets for a raster"):
        read_sources([archive / "items.json"])
    assert names(read_sources([archive / "items.json"], "nir"), archive) == ["nir.tif"]


def test_features_that_are_no_items(archive) -> None:
    feature = {"type": "Feature", "geometry": None, "properties": {"name": "a field"}}
    (archive / "fields.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(UsageError, match=r"fields.geojson: not a STAC item, collection or catalog") as raised:
        read_sources([archive / "fields.geojson"])
    assert "\n" not in str(raised.value)


def test_shards_are_disjoint_and_complete(archive) -> None:
    entries = read_sources([archive])
    parts = [shard(entries, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(e.scene for part in parts for e in part) == sorted(e.scene for e in entries)
    for wrong in ("0/3", "4/3", "x", "1", "1/0"):
        with pytest.raises(UsageError, match="--shard"):
            shard(entries, wrong)


@pytest.mark.parametrize("source", ["nowhere.tif", "nothing*.tif", "nowhere.json", "empty"])
def test_sources_that_are_none(tmp_path, source) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=source.replace("*", r"\*")):
        read_sources([tmp_path / source])


def test_storages_are_file_systems_servers_and_buckets(archive) -> None:
    assert storage(str(archive / "a" / "x.tif")) == storage(str(archive / "b" / "x.tif"))
    assert storage(str(archive / "w.tif")) != storage("/proc/version")
    assert storage("s3://one/a/x.tif") == storage("s3://one/b/y.tif") != storage("s3://two/a/x.tif")
    assert storage("https://host.example/x.tif") != storage("https://other.example/x.tif")
    assert storage("/vsis3/one/x.tif") == storage("/vsis3/one/a/y.tif") != storage("/vsis3/two/x.tif")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_of_any_spreadsheet(tmp_path, mark) -> None:
    rows = [["scene", "flips", "min-area"], ["a.tif", "d4", "3px"], ["b;1,2.tif", "", "25"]]
    (tmp_path / "a.csv").write_text(
        "\N{ZERO WIDTH NO-BREAK SPACE}" + "\r\n".join(mark.join(f'"{cell}"' for cell in row) for row in rows) + "\r\n",
        encoding="utf-8",
        newline="",
    )
    first, second = read_sources([tmp_path / "a.csv"])
    assert (Path(first.scene).name, first.options) == ("a.tif", {"flips": "d4", "min_area": "3px"})
    assert (Path(second.scene).name, second.options) == ("b;1,2.tif", {"min_area": "25"})


def test_a_table_without_scenes_shows_its_header(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("name;flips\na.tif;d4\n")
    with pytest.raises(UsageError, match=r"in its header 'name;flips': expected one of scene, path, file, and commas"):
        read_sources([tmp_path / "a.csv"])
