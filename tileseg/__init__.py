"""Exact, seamless segmentation of rasters of any size."""
