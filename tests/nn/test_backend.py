"""What loading the network's framework may not do to the rest of the process."""

import sqlite3
import subprocess
import sys
from contextlib import closing

WRITE = """
import sys
import tileseg.nn.backend
import geopandas, shapely
frame = geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 3, 2)], crs=4326)
frame.to_file(sys.argv[1], driver="GPKG", engine="pyogrio")
"""


def test_a_geopackage_written_after_tensorflow_was_loaded_has_a_spatial_index(tmp_path) -> None:
    path = tmp_path / "a.gpkg"
    subprocess.run([sys.executable, "-c", WRITE, path], check=True, timeout=300)
    with closing(sqlite3.connect(path)) as database:
        assert [row[2] for row in database.execute("SELECT * FROM gpkg_extensions")] == ["gpkg_rtree_index"]
