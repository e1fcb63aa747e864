"""The files that a run delivers: vectors, label COG, quicklook, summary."""
