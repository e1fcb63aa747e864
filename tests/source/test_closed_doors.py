"""A raster that somebody else made reads no other file and fetches nothing, however it asks for it."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from tileseg.errors import InputError
from tileseg.source.aoi import Aoi
from tileseg.source.formats import identify
from tileseg.source.picture import overview_rgb
from tileseg.source.scene import open_scene
from tileseg.source.vector_file import name_to_read
from tileseg.window import Window

CANARY = 77
HEIGHT, WIDTH = 40, 60


@dataclass(frozen=True)
class Ground:
    """Where an attack is prepared."""

    inside: Path
    """Folder of the scene."""
    canary: Path
    """A raster elsewhere, all of whose pixels are CANARY."""
    url: str
    """Address of a server that counts."""
    asked: list[str]
    """What the server was asked for."""


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    asked: list[str] = []

    class Counting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    plain(tmp_path / "outside" / "canary.tif", CANARY)
    plain(tmp_path / "inside" / "a.tif", 5)
    # GDAL takes relative names from the working directory, where this one lies in wait.
    plain(tmp_path / "outside" / "cwd.tif", CANARY)
    monkeypatch.chdir(tmp_path / "outside")
    yield Ground(
        tmp_path / "inside", tmp_path / "outside" / "canary.tif", f"http://127.0.0.1:{server.server_port}/x.tif", asked
    )
    server.shutdown()
    server.server_close()


def plain(path: Path, value: int, height: int = HEIGHT, width: int = WIDTH, driver: str = "GTiff") -> Path:
    shape = {"height": height, "width": width, "count": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:32637", "transform": Affine(1, 0, 500_000, 0, -1, 4_000_000)}
    with rasterio.open(path, "w", driver=driver, **shape, **place) as file:
        file.write(np.full((1, height, width), value, "uint8"))
    return path


def virtual(path: Path, band: str, head: str = "", attributes: str = "") -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}" {attributes}>{head}'
        f'<VRTRasterBand dataType="Byte" band="1">{band}</VRTRasterBand></VRTDataset>'
    )
    return path


def simple(name: str, attributes: str = 'relativeToVRT="1"') -> str:
    source = f"<SourceFilename {attributes}>{escape(name)}</SourceFilename><SourceBand>1</SourceBand>"
    return f"<SimpleSource>{source}</SimpleSource>"


def named_by_attribute(ground: Ground) -> Path:
    source = f"<SimpleSource SourceFilename={quoteattr(str(ground.canary))} SourceBand='1'></SimpleSource>"
    return virtual(ground.inside / "x.vrt", source)


def address_by_attribute(ground: Ground) -> Path:
    address = quoteattr(f"/vsicurl/{ground.url}")
    return virtual(ground.inside / "x.vrt", f"<ComplexSource SourceFilename={address}></ComplexSource>")


def in_the_working_directory(ground: Ground) -> Path:
    return virtual(ground.inside / "x.vrt", simple("cwd.tif", 'relativeToVRT="0"'))


def in_the_working_directory_by_default(ground: Ground) -> Path:
    return virtual(ground.inside / "x.vrt", simple("cwd.tif", ""))


def inside_out(ground: Ground) -> Path:
    """A harmless name of the folder that is another file in the working directory."""
    plain(ground.inside / "cwd.tif", 5)
    return virtual(ground.inside / "x.vrt", simple("cwd.tif", ""))


def processed(ground: Ground) -> Path:
    text = (
        '<VRTDataset subClass="VRTProcessedDataset"><Input>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></Input>'
        "<ProcessingSteps><Step><Algorithm>LocalScaleOffset</Algorithm>"
        f'<Argument name="gain_dataset_filename_1">{ground.canary}</Argument><Argument name="gain_dataset_band_1">1'
        f'</Argument><Argument name="offset_dataset_filename_1">{ground.canary}</Argument>'
        '<Argument name="offset_dataset_band_1">1</Argument></Step></ProcessingSteps></VRTDataset>'
    )
    (ground.inside / "x.vrt").write_text(text)
    return ground.inside / "x.vrt"


def pansharpened(ground: Ground) -> Path:
    text = (
        '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><PanchroBand><SourceFilename>'
        f"{ground.canary}</SourceFilename><SourceBand>1</SourceBand></PanchroBand><SpectralBand dstBand='1'>"
        f"<SourceFilename>{ground.canary}</SourceFilename><SourceBand>1</SourceBand></SpectralBand>"
        "</PansharpeningOptions></VRTDataset>"
    )
    (ground.inside / "x.vrt").write_text(text)
    return ground.inside / "x.vrt"


def raw(ground: Ground) -> Path:
    path = ground.inside / "x.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename>{ground.canary}</SourceFilename><ImageOffset>300</ImageOffset>'
        f"<PixelOffset>1</PixelOffset><LineOffset>{WIDTH}</LineOffset></VRTRasterBand></VRTDataset>"
    )
    return path


def multidimensional(ground: Ground) -> Path:
    text = (
        '<VRTDataset><Group name="/"><Dimension name="Y" size="40"/><Dimension name="X" size="60"/><Array name="x">'
        '<DataType>Byte</DataType><DimensionRef ref="Y"/><DimensionRef ref="X"/><Source>'
        f"<SourceFilename>{ground.canary}</SourceFilename><SourceBand>1</SourceBand></Source></Array></Group></VRTDataset>"
    )
    (ground.inside / "x.vrt").write_text(text)
    return ground.inside / "x.vrt"


def overview_by_tag(ground: Ground) -> Path:
    with rasterio.open(ground.inside / "a.tif", "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(ground.canary))
    return ground.inside / "a.tif"


def overview_by_tag_of_a_source(ground: Ground) -> Path:
    overview_by_tag(ground)
    return virtual(ground.inside / "x.vrt", simple("a.tif"))


def overview_by_table_beside(ground: Ground) -> Path:
    (ground.inside / "a.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/{ground.url}</MDI></Metadata>'
        "</PAMDataset>"
    )
    return ground.inside / "a.tif"


def overview_by_table_beside_a_virtual_raster(ground: Ground) -> Path:
    path = virtual(ground.inside / "x.vrt", simple("a.tif"))
    (ground.inside / "x.vrt.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{ground.canary}</MDI></Metadata>'
        "</PAMDataset>"
    )
    return path


def overview_of_an_overview(ground: Ground) -> Path:
    plain(ground.inside / "a.tif.ovr", 5, HEIGHT // 2, WIDTH // 2).rename(ground.inside / "o.tif")
    with rasterio.open(ground.inside / "o.tif", "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(ground.canary))
    (ground.inside / "o.tif").rename(ground.inside / "a.tif.ovr")
    return ground.inside / "a.tif"


def overview_in_capitals(ground: Ground) -> Path:
    return virtual(ground.inside / "a.tif.OVR", simple(str(ground.canary))) and ground.inside / "a.tif"


def mask_in_capitals(ground: Ground) -> Path:
    return virtual(ground.inside / "a.tif.MSK", simple(f"/vsicurl/{ground.url}")) and ground.inside / "a.tif"


def linked_overview(ground: Ground) -> Path:
    plain(ground.canary.with_name("half.tif"), CANARY, HEIGHT // 2, WIDTH // 2)
    (ground.inside / "a.tif.ovr").symlink_to(ground.canary.with_name("half.tif"))
    return ground.inside / "a.tif"


def polyglot_erdas(ground: Ground) -> Path:
    text = virtual(ground.inside / "y.vrt", simple(str(ground.canary))).read_text()
    (ground.inside / "a.aux").write_text(f"EHFA_HEADER_TAG{text}")
    return ground.inside / "a.tif"


def polyglot_source(start: bytes) -> Callable[[Ground], Path]:
    """A file that begins as a picture and goes on as a virtual raster, behind a virtual raster."""

    def attack(ground: Ground) -> Path:
        text = virtual(ground.inside / "y.vrt", simple(str(ground.canary))).read_bytes()
        (ground.inside / "p.img").write_bytes(start + text)
        return virtual(ground.inside / "x.vrt", simple("p.img"))

    return attack


def envi_source(ground: Ground) -> Path:
    text = virtual(ground.inside / "y.vrt", simple(str(ground.canary))).read_bytes()
    (ground.inside / "p").write_bytes(text.ljust(HEIGHT * WIDTH, b"\0"))
    (ground.inside / "p.hdr").write_text(
        f"ENVI\nsamples = {WIDTH}\nlines = {HEIGHT}\nbands = 1\ndata type = 1\ninterleave = bsq\nheader offset = 0\n"
    )
    return virtual(ground.inside / "x.vrt", simple("p"))


def tile_index_source(ground: Ground) -> Path:
    """A GeoPackage that GDAL takes for an index of rasters because of its name."""
    import geopandas
    import shapely

    frame = geopandas.GeoDataFrame(
        {"location": [str(ground.canary)]}, geometry=[shapely.box(500_000, 3_999_960, 500_060, 4_000_000)], crs=32637
    )
    frame.to_file(ground.inside / "x.gti.gpkg", layer="x")
    return virtual(ground.inside / "x.vrt", simple("x.gti.gpkg"))


def terrain_model(ground: Ground) -> Path:
    """A warped raster with coefficients, and a terrain model to be fetched."""
    rpc = (
        f"<RPCTransformer><Reversed>0</Reversed><PixErrThreshold>0.1</PixErrThreshold><DEMPath>/vsicurl/{ground.url}"
        "</DEMPath><Metadata/></RPCTransformer>"
    )
    return virtual(
        ground.inside / "x.vrt",
        "",
        '<GDALWarpOptions><SourceDataset relativeToVRT="1">a.tif</SourceDataset><Transformer><GenImgProjTransformer>'
        f"<SrcRPCTransformer>{rpc}</SrcRPCTransformer></GenImgProjTransformer></Transformer></GDALWarpOptions>",
        'subClass="VRTWarpedDataset"',
    )


def system_by_address(ground: Ground) -> Path:
    return virtual(ground.inside / "x.vrt", simple("a.tif"), f"<SRS>{ground.url}</SRS>")


def nested_far(ground: Ground) -> Path:
    virtual(ground.inside / "y.vrt", f"<SimpleSource SourceFilename={quoteattr(str(ground.canary))}/>")
    return virtual(ground.inside / "x.vrt", simple("y.vrt"))


def other_systems(prefix: str) -> Callable[[Ground], Path]:
    def attack(ground: Ground) -> Path:
        return virtual(ground.inside / "x.vrt", simple(prefix.format(file=ground.canary, url=ground.url)))

    return attack


def open_options(ground: Ground) -> Path:
    source = simple("a.tif").replace(
        "</SimpleSource>", f"<OpenOptions><OOI key='X'>{ground.canary}</OOI></OpenOptions>"
    )
    return virtual(ground.inside / "x.vrt", f"{source}</SimpleSource>")


def virtual_table(ground: Ground) -> Path:
    """A table of tiles that SQLite would read out of another file."""
    path = plain(ground.inside / "g.gpkg", 5, driver="GPKG")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA writable_schema=ON")
        sql = f"CREATE VIRTUAL TABLE g USING VirtualOGR('/vsicurl/{ground.url}')"
        database.execute("UPDATE sqlite_master SET sql=?, rootpage=0 WHERE name='g'", (sql,))
    return path


def spilled(ground: Ground) -> tuple[Path, Path]:
    """An Erdas file, and the file beside it in which its pixels lie, all of them CANARY."""
    rasterio.shutil.copy(ground.canary, ground.inside / "e.img", driver="HFA", USE_SPILL="YES")
    return ground.inside / "e.img", ground.inside / "e.ige"


def erdas_elsewhere(ground: Ground) -> Path:
    """The pixels lie in another folder, by a name that is as long as the right one."""
    path, pixels = spilled(ground)
    pixels.rename(ground.inside.parent / "o")
    path.write_bytes(path.read_bytes().replace(b"e.ige\0", b"../o\0\0"))
    return path


def erdas_link(ground: Ground) -> Path:
    """The pixels lie beside it, in a link that leads to another folder."""
    path, pixels = spilled(ground)
    pixels.rename(ground.canary.with_name("e.ige"))
    pixels.symlink_to(ground.canary.with_name("e.ige"))
    return path


ATTACKS = {
    "attribute": named_by_attribute,
    "attribute-address": address_by_attribute,
    "cwd": in_the_working_directory,
    "cwd-default": in_the_working_directory_by_default,
    "cwd-twin": inside_out,
    "processed": processed,
    "pansharpened": pansharpened,
    "raw": raw,
    "multidimensional": multidimensional,
    "overview-tag": overview_by_tag,
    "overview-tag-source": overview_by_tag_of_a_source,
    "overview-pam": overview_by_table_beside,
    "overview-pam-vrt": overview_by_table_beside_a_virtual_raster,
    "overview-overview": overview_of_an_overview,
    "overview-capitals": overview_in_capitals,
    "mask-capitals": mask_in_capitals,
    "overview-link": linked_overview,
    "erdas-polyglot": polyglot_erdas,
    "bmp-polyglot": polyglot_source(b"BM"),
    "jpeg-polyglot": polyglot_source(b"\xff\xd8\xff"),
    "nitf-polyglot": polyglot_source(b"NITF02.10"),
    "envi": envi_source,
    "tile-index": tile_index_source,
    "terrain": terrain_model,
    "srs": system_by_address,
    "nested": nested_far,
    "vrt-protocol": other_systems("vrt://{file}"),
    "zip": other_systems("/vsizip//{file}"),
    "vsicurl": other_systems("/vsicurl/{url}"),
    "vsicurl-options": other_systems("/vsicurl?url={url}"),
    "subfile": other_systems("/vsisubfile/0_10000,{file}"),
    "wms": other_systems("<GDAL_WMS><Service name='TMS'><ServerUrl>{url}</ServerUrl></Service></GDAL_WMS>"),
    "page": other_systems("GTIFF_DIR:1:{file}"),
    "derived": other_systems("DERIVED_SUBDATASET:LOGAMPLITUDE:{file}"),
    "options": open_options,
    "table": virtual_table,
    "erdas-path": erdas_elsewhere,
    "erdas-link": erdas_link,
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("warp", [False, True])
def test_no_other_file_is_read_and_nothing_is_fetched(ground: Ground, name: str, warp: bool) -> None:
    path = ATTACKS[name](ground)
    try:
        scene = open_scene(path, expected=1, bands=(1,), warp=warp)
        pixels, _ = scene.read(scene.grid.extent)
        assert not (pixels == CANARY).any()
        assert not (overview_rgb(scene, 10) == CANARY).any()
    except InputError as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - either is right: refused, or read without the other file
    assert ground.asked == []


@pytest.mark.parametrize(
    "name",
    ["attribute", "cwd", "overview-tag", "overview-link", "bmp-polyglot", "jpeg-polyglot", "erdas-path", "erdas-link"],
)
def test_the_ways_are_open_in_gdal(ground: Ground, name: str) -> None:
    """The attacks are real ones: what is shut above is not what would fail anyway."""
    path = ATTACKS[name](ground)
    with rasterio.open(path) as file:
        whole = file.read(1)
        small = file.read(1, out_shape=(HEIGHT // 4, WIDTH // 4))
    assert (whole == CANARY).any() or (small == CANARY).any() or ground.asked


class TestEverydayUse:
    def test_a_name_alone_is_taken_from_the_folder_of_the_virtual_raster(self, ground: Ground) -> None:
        scene = open_scene(inside_out(ground), expected=1)
        assert (scene.read(scene.grid.extent)[0] == 5).all()

    @pytest.mark.parametrize("reference", ["../outside/canary.tif", "{canary}"])
    def test_files_elsewhere_are_read_where_the_user_says_so(self, ground: Ground, reference: str) -> None:
        path = virtual(ground.inside / "x.vrt", simple(reference.format(canary=ground.canary)))
        with pytest.raises(InputError, match="--trust-vrt"):
            open_scene(path, expected=1)
        scene = open_scene(path, expected=1, trust_vrt=True)
        assert (scene.read(scene.grid.extent)[0] == CANARY).all()

    @pytest.mark.parametrize("name", ["attribute", "attribute-address", "processed", "vsicurl", "overview-tag-source"])
    def test_but_nothing_else_is_trusted(self, ground: Ground, name: str) -> None:
        with pytest.raises(InputError):
            open_scene(ATTACKS[name](ground), expected=1, trust_vrt=True)
        assert ground.asked == []

    @pytest.mark.parametrize(
        ("driver", "name"),
        [("GTiff", "s.tif"), ("PNG", "s.png"), ("JP2OpenJPEG", "s.jp2"), ("BMP", "s.bmp"), ("ENVI", "s.dat"),
         ("HFA", "s.img"), ("NITF", "s.ntf"), ("GTiff", "a&b'c #ü!.tif"), ("PNG", "a&b'c #ü!.png")],
    )  # fmt: skip
    @pytest.mark.parametrize("nested", [False, True])
    def test_every_format_is_read_behind_a_virtual_raster(
        self, ground: Ground, driver: str, name: str, nested: bool
    ) -> None:
        with rasterio.open(ground.inside / "a.tif", "r+") as file:
            file.write(np.arange(HEIGHT * WIDTH, dtype="uint8").reshape(1, HEIGHT, WIDTH))
        lossless = {"QUALITY": 100, "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
        rasterio.shutil.copy(ground.inside / "a.tif", ground.inside / name, driver=driver, **lossless)
        path = virtual(ground.inside / "x.vrt", simple(name))
        if nested:
            path = virtual(ground.inside / "y.vrt", simple("x.vrt"))
        scene = open_scene(path, expected=1)
        expected = np.arange(HEIGHT * WIDTH, dtype="uint8").reshape(HEIGHT, WIDTH)
        assert np.array_equal(scene.read(scene.grid.extent)[0][..., 0], expected)

    def test_a_mosaic_reads_as_gdal_reads_it(self, ground: Ground) -> None:
        """Two sources with scaling, a lookup table, nodata and a mask, side by side."""
        with rasterio.open(ground.inside / "a.tif", "r+") as file:
            file.write(np.arange(HEIGHT * WIDTH, dtype="uint8").reshape(1, HEIGHT, WIDTH))
        left = f'<SrcRect xOff="3.5" yOff="0" xSize="30" ySize="{HEIGHT}"/>'
        left += '<DstRect xOff="0" yOff="2" xSize="30" ySize="30"/>'
        right = '<SrcRect xOff="0" yOff="0" xSize="20" ySize="20"/><DstRect xOff="30" yOff="5" xSize="30" ySize="35"/>'
        scaled = "<ScaleOffset>3</ScaleOffset><ScaleRatio>0.5</ScaleRatio><NODATA>9</NODATA>"
        table = "<LUT>0:10,255:0</LUT>"
        name = '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
        path = virtual(
            ground.inside / "x.vrt",
            f"<NoDataValue>0</NoDataValue><ColorInterp>Gray</ColorInterp>"
            f'<ComplexSource resampling="bilinear">{name}{left}{scaled}</ComplexSource>'
            f"<ComplexSource>{name}{right}{table}</ComplexSource>",
            "<SRS>EPSG:32637</SRS><GeoTransform>500000, 1, 0, 4000000, 0, -1</GeoTransform>"
            '<OverviewList resampling="nearest">2 4</OverviewList>',
        )
        scene = open_scene(path, expected=1)
        with rasterio.open(path) as file:
            assert np.array_equal(scene.read(scene.grid.extent)[0][..., 0], file.read(1))
            assert np.array_equal(scene.read(scene.grid.extent)[1], file.read_masks(1) > 0)
            assert scene.grid.transform == file.transform

    def test_a_warped_raster_reads_as_gdal_reads_it(self, ground: Ground) -> None:
        from rasterio.vrt import WarpedVRT

        with rasterio.open(ground.inside / "a.tif", "r+") as file:
            file.write(np.arange(HEIGHT * WIDTH, dtype="uint8").reshape(1, HEIGHT, WIDTH))
        with rasterio.open(ground.inside / "a.tif") as file, WarpedVRT(file, crs="EPSG:4326") as warped:
            rasterio.shutil.copy(warped, ground.inside / "w.vrt", driver="VRT")
            expected = warped.read(1)
        assert "VRTWarpedDataset" in (ground.inside / "w.vrt").read_text()
        scene = open_scene(ground.inside / "w.vrt", expected=1)
        assert np.array_equal(scene.read(scene.grid.extent)[0][..., 0], expected)


class TestStamps:
    def test_only_files_that_a_window_touches_are_looked_at(self, ground: Ground) -> None:
        tiles = ""
        for i in range(6):
            plain(ground.inside / f"t{i}.tif", i, HEIGHT, 10)
            tiles += simple(f"t{i}.tif").replace(
                "</SimpleSource>",
                f'<SrcRect xOff="0" yOff="0" xSize="10" ySize="{HEIGHT}"/>'
                f'<DstRect xOff="{10 * i}" yOff="0" xSize="10" ySize="{HEIGHT}"/></SimpleSource>',
            )
        path = virtual(ground.inside / "x.vrt", tiles)
        source = identify(path)
        assert len(source.stamps()) == 7
        names = {file.name for file in source.stamps(Window(0, 23, 5, 5))}
        assert names == {"x.vrt", "t2.tif"}
        scene = open_scene(path, expected=1)
        assert scene.read(Window(0, 50, 3, 10))[0].max() == 5
        plain(ground.inside / "t5.tif", 9, HEIGHT, 10)
        os.utime(ground.inside / "t5.tif", ns=(1, 1))
        with pytest.raises(InputError, match="changed"):
            scene.read(Window(0, 50, 3, 10))


class TestVectors:
    """Labels and areas of interest."""

    def polygons(self, path: Path) -> Path:
        import geopandas
        import shapely

        frame = geopandas.GeoDataFrame(
            {"n": [1]}, geometry=[shapely.box(500_010, 3_999_970, 500_030, 3_999_990)], crs=32637
        )
        frame.to_file(path)
        return path

    def descriptions(self, ground: Ground) -> dict[str, bytes]:
        outside = self.polygons(ground.canary.with_name("canary.gpkg"))
        vrt = (
            f'<OGRVRTDataSource><OGRVRTLayer name="canary"><SrcDataSource>{outside}</SrcDataSource></OGRVRTLayer>'
            "</OGRVRTDataSource>"
        )
        pipeline = f'{{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read {outside} ! write x"}}'
        wfs = f"<OGRWFSDataSource><URL>{ground.url}</URL></OGRWFSDataSource>"
        return {"vrt": vrt.encode(), "pipeline": pipeline.encode(), "wfs": wfs.encode()}

    @pytest.mark.parametrize("kind", ["vrt", "pipeline", "wfs"])
    @pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp", "a.zip"])
    def test_descriptions_of_other_data_are_not_followed(self, ground: Ground, kind: str, name: str) -> None:
        content = self.descriptions(ground)[kind]
        path = ground.inside / name
        if name == "a.zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.geojson", content)
        else:
            path.write_bytes(content)
        grid = open_scene(ground.inside / "a.tif", expected=1).grid
        with pytest.raises(InputError, match="description of other data"):
            Aoi.from_file(path, grid)
        with pytest.raises(InputError, match="description of other data"), name_to_read(path):
            pass
        assert ground.asked == []

    @pytest.mark.parametrize("name", ["a.gpkg", "a.zip", "a.gpkg.zip", "b.zip"])
    def test_virtual_tables_are_not_followed(self, ground: Ground, name: str) -> None:
        path = self.polygons(ground.inside / "a.gpkg")
        with sqlite3.connect(path) as database:
            database.executescript("DROP TABLE rtree_a_geom; PRAGMA writable_schema=ON")
            sql = f"CREATE VIRTUAL TABLE a USING VirtualOGR('/vsicurl/{ground.url}')"
            database.execute("UPDATE sqlite_master SET sql=?, rootpage=0 WHERE name='a'", (sql,))
            database.execute("DELETE FROM sqlite_master WHERE type='trigger'")
        for inner, outer in (("a.gpkg", "a.zip"), ("a.gpkg", "a.gpkg.zip"), ("a.gpkg.zip", "b.zip")):
            with zipfile.ZipFile(ground.inside / outer, "w") as archive:
                archive.write(ground.inside / inner, inner)
        with pytest.raises(InputError, match="archive in an archive" if name == "b.zip" else "is a virtual one"):
            Aoi.from_file(ground.inside / name, open_scene(ground.inside / "a.tif", expected=1).grid)
        assert ground.asked == []

    @pytest.mark.parametrize("kind", ["link", "url"])
    @pytest.mark.parametrize("name", ["a.geojson", "a.zip", "a.json"])
    def test_systems_are_not_fetched(self, ground: Ground, name: str, kind: str) -> None:
        import pyogrio

        features = json.loads(self.polygons(ground.inside / "b.geojson").read_text())["features"]
        system = {"properties": {"href": ground.url, "url": ground.url}, "type": kind}
        text = json.dumps({"type": "FeatureCollection", "features": features * 2000, "crs": system})
        if name == "a.json":
            arcs = [[[500_010, 3_999_970], [20, 0], [0, 20], [-20, -20]]]
            shapes = {"a": {"type": "Polygon", "arcs": [[0]]}}
            text = json.dumps({"type": "Topology", "objects": shapes, "arcs": arcs, "crs": system})
        (ground.inside / "c.json").write_text(text)
        if name == "a.zip":
            with zipfile.ZipFile(ground.inside / name, "w") as archive:
                archive.write(ground.inside / "c.json", "c.json")
        else:
            (ground.inside / "c.json").rename(ground.inside / name)
        with pytest.raises(InputError, match="its coordinate reference system is an address"):
            Aoi.from_file(ground.inside / name, open_scene(ground.inside / "a.tif", expected=1).grid)
        assert ground.asked == []
        if name == "a.geojson":
            pyogrio.read_info(ground.inside / name)
            assert ground.asked  # GDAL does, if let

    def test_schemas_are_not_fetched(self, ground: Ground) -> None:
        import pyogrio

        path = ground.inside / "a.gml"
        ring = "500010,3999970 500030,3999970 500030,3999990 500010,3999970"
        path.write_text(
            '<wfs:FeatureCollection xmlns:wfs="http://www.opengis.net/wfs" xmlns:gml="http://www.opengis.net/gml" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:o="http://x.org/" xsi:schemaLocation="'
            f'http://x.org/ {ground.url}?SERVICE=WFS&amp;REQUEST=DescribeFeatureType&amp;TYPENAME=a">'
            "<gml:featureMember><o:a><o:g><gml:Polygon><gml:outerBoundaryIs><gml:LinearRing><gml:coordinates>"
            f"{ring}</gml:coordinates></gml:LinearRing></gml:outerBoundaryIs></gml:Polygon></o:g></o:a>"
            "</gml:featureMember></wfs:FeatureCollection>"
        )
        grid = open_scene(ground.inside / "a.tif", expected=1).grid
        assert Aoi.from_file(path, grid).area.area == pytest.approx(200)
        assert ground.asked == []
        path.with_suffix(".gfs").unlink(missing_ok=True)
        pyogrio.read_info(path)
        assert ground.asked  # GDAL does, if let

    @pytest.mark.parametrize("line", ["Create View a As", '"\\IsSeamless" = "TRUE"'])
    def test_tables_of_other_tables_are_not_followed(self, ground: Ground, line: str) -> None:
        (ground.inside / "a.tab").write_text(f"!Table\n!Version 300\n{line}\n")
        with pytest.raises(InputError, match="description of other data"), name_to_read(ground.inside / "a.tab"):
            pass

    def test_plain_files_are_read(self, ground: Ground) -> None:
        grid = open_scene(ground.inside / "a.tif", expected=1).grid
        for name in ("b.gpkg", "b.geojson", "b.shp", "b.fgb", "b.tab"):
            assert Aoi.from_file(self.polygons(ground.inside / name), grid).area.area == pytest.approx(400, rel=0.01)
