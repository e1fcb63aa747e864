"""Series of scans: slices in their order, segmented one by one, and what is made of all of them."""
