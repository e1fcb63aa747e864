"""Labelled scenes: described in TOML, read window by window, sampled for training and evaluation."""

from tileseg.dataset.dataset import Dataset, load_dataset
from tileseg.dataset.labelled import LabelledScene

__all__ = ["Dataset", "LabelledScene", "load_dataset"]
