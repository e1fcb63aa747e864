"""Words that options of reading take; apart, so that the command line knows them without pydantic."""

from __future__ import annotations

from typing import Literal

OnTop = Literal["first", "last", "newest"]
"""Which file counts where several of a scene have data."""
Resampling = Literal["nearest", "bilinear", "cubic"]
"""How pixels of another grid are warped."""
Tissue = Literal["auto", "none"]
"""How tissue is told from glass on slides."""
Values = Literal["stored", "harmonized", "physical"]
"""Which numbers pixels are: as stored; without the offset of the metadata; with its scale and offset."""
Missing = Literal["fail", "nodata"]
"""What becomes of a file that is missing or broken."""
