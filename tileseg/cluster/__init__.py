"""Dask: connect to workers, admit those that fit, feed them blocks; what a machine has."""
