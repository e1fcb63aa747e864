"""What a file is that tileseg does not read, and how to get a raster of it."""

from __future__ import annotations

_CONVERT = "convert it: gdal_translate -of COG IN OUT.tif"
_PART = "choose one raster of it and convert that: gdalinfo IN lists them, gdal_translate -of COG SUBDATASET OUT.tif"
_MOVED = "unpack it first"

POLYGONS_OF_A_TABLE = (
    "polygons of a table must stand in a column called WKT; if they do not, make a GeoPackage: ogr2ogr -oo "
    "GEOM_POSSIBLE_NAMES=<column> -a_srs EPSG:<code> copy.gpkg IN"
)

_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 or netCDF-4 file", _PART),
    (0, b"CDF\x01", "a netCDF file", _PART),
    (0, b"CDF\x02", "a netCDF file", _PART),
    (0, b"CDF\x05", "a netCDF file", _PART),
    (0, b"\x0e\x03\x13\x01", "an HDF4 file", _PART),
    (0, b"GRIB", "a GRIB file", _PART),
    (0, b"PK\x03\x04", "a ZIP archive", _MOVED),
    (0, b"\x1f\x8b", "a gzip archive", _MOVED),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", _MOVED),
    (0, b"Rar!", "a RAR archive", _MOVED),
    (0, b"BZh", "a bzip2 archive", _MOVED),
    (257, b"ustar", "a tar archive", _MOVED),
    (0, b"LASF", "a point cloud (LAS or LAZ)", "make a raster of it first, for example with PDAL's writers.gdal"),
    (0, b"msid", "a MrSID image", "convert it with mrsiddecode, or with a GDAL that has the MrSID driver"),
    (0, b"\xff\x0a", "a JPEG XL image", "convert it to TIFF or PNG"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", "convert it to TIFF or PNG"),
    (4, b"ftypheic", "a HEIC photograph", "convert it to JPEG or PNG"),
    (4, b"ftypheix", "a HEIC photograph", "convert it to JPEG or PNG"),
    (4, b"ftypmif1", "a HEIF photograph", "convert it to JPEG or PNG"),
    (4, b"ftypavif", "an AVIF image", "convert it to JPEG or PNG"),
    (0, b"GIF8", "a GIF image", "convert it to PNG"),
    (0, b"%PDF", "a PDF document", _CONVERT),
    (0, b"8BPS", "a Photoshop document", "export it as TIFF"),
    (0, b"SIMPLE  =", "a FITS file", _CONVERT),
    (0, b"\x00\x00\x27\x0a", "a shapefile, which holds no pixels", "give the raster instead"),
    (0, b"fgb\x03", "a FlatGeobuf, which holds no pixels", "give the raster instead"),
    (0, b"PAR1", "a Parquet file, which holds no pixels", "give the raster instead"),
    (0, b"version https://git-lfs", "a pointer of Git LFS and not the file itself", "fetch it: git lfs pull"),
    (0, b"ncols", "an ASCII grid", _CONVERT),
    (0, b"DSAA", "a Surfer grid", _CONVERT),
    (0, b"<GDAL_WMS", "a description of a web map service", "copy what you need of it: gdal_translate IN OUT.tif"),
    (0, b"<GDALTileIndex", "a tile index of GDAL", "call it *.gti, or give the index that it describes"),
    (0, b"<MRF_META", "an MRF raster", _CONVERT),
)
"""Where in a file, what stands there, what the file is then, and what to do."""
_ENDINGS = {
    ".ecw": ("an ECW image", "convert it with a GDAL that has the ECW driver: gdal_translate -of COG IN OUT.tif"),
    ".sid": ("a MrSID image", "convert it with mrsiddecode, or with a GDAL that has the MrSID driver"),
    ".csv": (
        "a table of text",
        f"a list of scenes is for tileseg batch; {POLYGONS_OF_A_TABLE}",
    ),
    ".xyz": ("a list of points", _CONVERT),
    ".hgt": ("an SRTM height file", _CONVERT),
    ".nd2": ("a microscope's image", "export it as TIFF"),
}
"""For formats without a mark of their own."""
_TEXT = ((b"<html", "a web page"), (b"<!doctype html", "a web page"), (b"{", "JSON text"), (b"<?xml", "XML text"))


def unread(head: bytes, suffix: str) -> tuple[str, str]:
    """What a file is, by its first bytes and the ending of its name ("is ..., "), and what to do about it."""
    for place, mark, what, remedy in _OTHERS:
        if head[place : place + len(mark)] == mark:
            return f"is {what}, ", remedy
    if suffix.lower() in _ENDINGS:
        what, remedy = _ENDINGS[suffix.lower()]
        return f"is {what} by its name, ", remedy
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    for mark, what in _TEXT:
        if begin.startswith(mark):
            return f"is {what}, ", "was the right file downloaded?"
    return "is ", _CONVERT
