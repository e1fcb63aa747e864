"""Engines: what computes a network, and what is the same around any of them (views, scaling, merging, tiles)."""
