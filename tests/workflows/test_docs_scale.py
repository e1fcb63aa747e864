"""docs/scale.md: the commands run as they stand; options, files and recipes that it names exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from archives import delivered

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)

PATIENCE = (
    "python -c \"import distributed as d; d.Client(scheduler_file='dask.json', timeout=300).wait_for_workers(1)\""
)
"""Where other work slows the machine down, a worker may take longer to come than a run waits for it."""


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path) -> None:
    (tmp_path / "sample_rasters").symlink_to(REPOSITORY / "sample_rasters")
    script = ["set -eu", "trap 'kill $(jobs -p); wait' EXIT"]  # what the page leaves running
    for language, text in BLOCKS:
        if language == "yaml":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif language == "console":
            script.append(re.sub(r"^(tileseg worker .* &)$", rf"\1\n{PATIENCE}", text, flags=re.MULTILINE))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr[-5000:]
    assert "2 skipped" in told.stdout  # by the second call, and by the one after the shares
    assert (tmp_path / "all.gpkg").stat().st_size > 0
    counts = json.loads((tmp_path / "shares" / "batch.json").read_text())["counts"]
    assert counts == {**dict.fromkeys(counts, 0), "skipped": 2}
    assert (tmp_path / "shares" / "collection.json").exists()
    # Wherever blocks were computed: the same bytes.
    files = delivered(tmp_path / "results")
    for name in ("labels.tif", "quicklook.png"):
        places = {files[f"{folder}.tileseg/{name}"] for folder in ("collar", "spread", "by-file")}
        assert len(places) == 1, name


def test_what_it_points_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.replace("\n", " "))
    assert len(links) >= 10
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []
    paths = re.findall(r"(?:workflows|docker)/[\w./-]*\w", PAGE)
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
