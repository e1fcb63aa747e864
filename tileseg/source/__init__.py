"""Where pixels come from: rasters, label rasters, areas of interest."""
