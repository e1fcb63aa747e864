"""Compare predictions with the truth: counts, distances, calibration, polygons, and the report on them."""
