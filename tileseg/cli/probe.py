"""What one library says about itself, as one line of JSON: ``python -m tileseg.cli.probe keras``.

Run by ``tileseg doctor`` in a process of its own, so that a library that crashes on import is a finding and not the
end of the doctor. The one module of the command line that imports them.
"""

from __future__ import annotations

import json
import sys


def keras() -> dict[str, object]:
    """The backend that Keras takes (``KERAS_BACKEND``, its configuration file) and the GPUs that TensorFlow sees.

    ``gpus`` is None with another backend: then TensorFlow's GPUs mean nothing.
    """
    import keras as k

    backend = str(k.backend.backend())
    gpus = None
    if backend == "tensorflow":
        import tensorflow as tf

        # Physical devices only: asking for logical ones would take the GPU's memory.
        gpus = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
    return {"backend": backend, "gpus": gpus}


def rasterio() -> dict[str, object]:
    """GDAL as rasterio brings it: it reads scenes and writes labels."""
    import rasterio as rio
    from rasterio.crs import CRS
    from rasterio.env import Env

    with Env() as env:
        drivers = sorted(env.drivers())
        CRS.from_epsg(4326)
    return {"gdal": rio.__gdal_version__, "drivers": drivers}


def pyogrio() -> dict[str, object]:
    """GDAL as pyogrio brings it: it writes polygons. ``drivers``: those that can write."""
    import pyogrio as ogr

    drivers = sorted(name for name, mode in ogr.list_drivers().items() if "w" in mode)
    return {"gdal": ogr.__gdal_version_string__, "drivers": drivers}


def pyproj() -> dict[str, object]:
    """PROJ as pyproj brings it, with its database."""
    import pyproj as proj

    proj.CRS.from_epsg(4326)
    return {"proj": proj.proj_version_str}


def shapely() -> dict[str, object]:
    """GEOS as shapely brings it."""
    import shapely as shp

    return {"geos": shp.geos_version_string}


PROBES = {probe.__name__: probe for probe in (keras, rasterio, pyogrio, pyproj, shapely)}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))  # noqa: T201 - this line is the answer to the process that asked
