"""From label rasters to polygons that equal GDAL's on the whole raster."""
