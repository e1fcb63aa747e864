"""The viewer in a real browser: Debian's Chromium, without a screen, driven by Playwright."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from fakes import smooth_noise, write_scene
from rasterio.transform import from_origin
from served import serving, serving_app

from tileseg import RunSpec, run
from tileseg.view.viewed import look_into, runs_in

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not there: apt-get install --no-install-recommends chromium")
    with playwright.sync_playwright() as started:
        arguments = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
        found = started.chromium.launch(executable_path=program, args=arguments)
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with serving(runs_in(runs)) as served:
        yield served.address


Look = Callable[..., Page]


@pytest.fixture
def look(browser: Any, address: str) -> Iterator[Look]:
    """Open the page: of the address and what follows, in a window of a size. Nothing may fail in its console."""
    said: list[str] = []
    pages: list[Page] = []

    def opened(
        rest: str = "",
        at: str = address,
        size: tuple[int, int] = (1000, 700),
        ready: str = "viewer.state.known.tiles",
        lost: str | None = None,
    ) -> Page:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        if lost:
            page.route(lost, lambda route: route.abort(), times=1)
        harmless = ["GPU stall", *(["net::ERR_FAILED"] if lost else [])]
        page.on(
            "console",
            lambda m: (
                said.append(m.text)
                if m.type in ("error", "warning") and not any(part in m.text for part in harmless)
                else 0
            ),
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url) if at not in request.url else None)
        page.goto(f"{at}/{rest}")
        pages.append(page)
        wait(page, f"viewer.state.known.ready && {ready}")
        if "tiles" in ready:
            wait(page, "viewer.map.isSourceLoaded('polygons') && document.getElementById('a-list').children.length")
        wait(page, "viewer.map.areTilesLoaded() && viewer.map.loaded()")
        return page

    yield opened
    for page in pages:
        assert not page.locator("#problem").is_visible(), page.locator("#problem").text_content()
        page.close()
    assert said == []


def wait(page: Page, condition: str) -> Any:
    """Until an expression of the page holds; its value. (Playwright's own way needs eval, which the page forbids.)"""
    for _ in range(1200):
        if found := page.evaluate(f"() => Boolean(window.viewer) && ({condition})"):
            return found
        time.sleep(0.05)
    raise TimeoutError(condition)


def pixels(page: Page) -> Any:
    """(y, x, 3) what the map shows."""
    import io

    from PIL import Image

    wait(page, "viewer.map.loaded() && viewer.map.areTilesLoaded()")
    return np.asarray(Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB")).astype(int)


def switch(page: Page, layer: str) -> None:
    page.locator(f"[data-layer='{layer}']").click()


def test_the_map_draws_and_layers_switch(look: Look) -> None:
    page = look("#run=1")
    whole = pixels(page)
    assert whole[100:600, 100:580].std() > 20  # the scene: noise
    switch(page, "scene")
    switch(page, "polygons")
    nothing = pixels(page)
    assert nothing[200:500, 200:480].std() < 5
    for layer in (
        "labels",
        page.evaluate("() => viewer.state.layers.find((each) => each.key.startsWith('measure')).key"),
    ):
        switch(page, layer)
        assert pixels(page)[200:500, 200:480].std() > 10
        switch(page, layer)
    switch(page, "polygons")
    assert pixels(page)[200:500, 200:480].std() > 5
    assert "on=polygons" in page.url
    again = look("#" + page.url.partition("#")[2])
    seen, there = (np.array(each.evaluate("() => viewer.map.getBounds().toArray().flat()")) for each in (again, page))
    np.testing.assert_allclose(seen, there, atol=2e-5)
    assert pixels(again)[200:500, 200:480].std() == pytest.approx(pixels(page)[200:500, 200:480].std(), rel=0.1)


def test_hiding_a_class_hides_it_and_the_legend_counts(look: Look, runs: Path) -> None:
    page = look("#run=1")
    frame = geopandas.read_file(runs / "placed.tileseg" / "polygons.gpkg", layer="polygons")
    table = page.locator("#legend").inner_text()
    for name, part in frame.groupby("class_name"):
        assert f"{name}\t{len(part):,}\t" in table
    shown = "() => viewer.map.queryRenderedFeatures({ layers: ['polygons'] }).map((f) => f.properties.class_name)"
    name = frame["class_name"].iloc[0]
    wait(page, "viewer.map.queryRenderedFeatures({ layers: ['polygons'] }).length")
    assert name in page.evaluate(shown)
    page.locator(f"[data-class='{name}']").click()
    wait(page, "viewer.map.loaded()")
    pixels(page)
    assert name not in page.evaluate(shown)


def test_the_slider_gives_what_vectorize_gives(look: Look, runs: Path, in_process, tmp_path: Path) -> None:
    page = look("#run=1")
    page.locator("#t-slider").fill("0.6")
    wait(page, "document.getElementById('t-counts').textContent.endsWith('in the scene')")
    name = page.locator("#t-class option").first.text_content()
    told = in_process(
        "vectorize",
        runs / "placed.tileseg",
        "--threshold",
        f"{name}=0.6",
        "--min-area",
        "4px",
        "--out",
        tmp_path / "t.fgb",
    )
    assert told.returncode == 0, told.stderr
    counts = geopandas.read_file(tmp_path / "t.fgb").groupby("class_name").size()
    said = page.locator("#t-counts").text_content()
    assert sorted(said.removesuffix(" in the scene").split(", ")) == sorted(f"{n:,} {c}" for c, n in counts.items())
    assert f"--threshold {name}=0.6" in page.locator("#t-command").text_content()
    assert page.evaluate("() => viewer.map.queryRenderedFeatures({ layers: ['polygons'] }).length") == 0
    page.locator("#t-reset").click()
    wait(page, "viewer.map.queryRenderedFeatures({ layers: ['polygons'] }).length > 0")


@pytest.mark.parametrize("run", [0, 1])
def test_a_click_shows_the_attributes_and_marks_are_kept(look: Look, runs: Path, run: int) -> None:
    folder = runs / ["bare.tileseg", "placed.tileseg"][run]
    frame = (
        geopandas.read_parquet(folder / "polygons.parquet")
        if run == 0
        else geopandas.read_file(folder / "polygons.gpkg", layer="polygons")
    ).set_index("id")
    page = look(f"#run={run}")
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("w")
    wait(page, "document.querySelectorAll('[data-verdict=wrong][aria-current]').length === 1")
    least = frame["mean_probability"].sort_values(kind="stable")
    marked = geopandas.read_file(folder / "review.gpkg", layer="review")
    assert marked["mean_probability"].tolist() == [least.iloc[1]]
    page.keyboard.press("w")
    wait(page, "document.querySelectorAll('[data-verdict=wrong][aria-current]').length === 0")
    time.sleep(0.5)
    wait(page, "!viewer.map.isMoving()")
    pixels(page)
    id_ = int(marked["id"][0])
    inside = frame.geometry[id_].representative_point()
    placement = look_into(folder).placement
    ((lon, lat),) = placement.lonlat(placement.of_crs(np.array([[inside.x, inside.y]])))
    x, y = page.evaluate(f"() => Object.values(viewer.map.project([{lon}, {lat}]))")
    page.locator("#map").click(position={"x": x, "y": y})
    text = page.locator(".maplibregl-popup-content").inner_text()
    assert f"id\t{id_}\n" in text
    assert f"class_name\t{frame['class_name'][id_]}" in text
    assert f"mean_probability\t{frame['mean_probability'][id_]:g}" in text


def test_pixels_without_coordinates_are_counted(look: Look) -> None:
    page = look("#run=0")
    x, y = page.evaluate("() => Object.values(viewer.map.project(viewer.map.getCenter()))")
    page.locator("#map").hover(position={"x": x, "y": y})
    assert page.locator("#place").text_content() in (
        "row 149, column 209",
        "row 150, column 210",
        "row 150, column 209",
    )
    assert page.locator(".pixels").text_content().endswith(" px")


def test_swipe_shows_the_bare_scene_on_the_left(look: Look) -> None:
    page = look("#run=1&on=scene,labels")
    before = pixels(page)
    page.locator("#swipe").check()
    page.locator("#divider").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#divider").get_attribute("aria-valuenow") == "45"
    time.sleep(1)
    after = pixels(page)
    changed = np.abs(after - before).max(axis=2) > 8
    middle = int(before.shape[1] * 0.45)
    assert changed[150:550, middle - 100 : middle - 20].mean() > 0.2
    assert changed[150:550, middle + 20 : middle + 100].mean() < 0.02


def test_an_export_needs_only_a_server_of_files(look: Look, runs: Path, tmp_path: Path) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    from tileseg.view.export import export

    export([look_into(runs / "placed.tileseg")], tmp_path / "site", tell=lambda _: None)
    with serving_app(Starlette(routes=[Mount("/here", StaticFiles(directory=tmp_path / "site", html=True))])) as files:
        page = look("here/", at=files.address, lost="**/polygons.pmtiles")  # one answer of many: asked for again
        assert pixels(page)[200:500, 200:480].std() > 20
        switch(page, "scene")
        switch(page, "polygons")
        assert pixels(page)[200:500, 200:480].std() < 5
        switch(page, "labels")
        assert pixels(page)[200:500, 200:480].std() > 10
        switch(page, "polygons")
        pixels(page)
        assert page.evaluate("() => viewer.map.queryRenderedFeatures({ layers: ['polygons'] }).length") > 3
        assert not page.locator("#thresholds").is_visible()
        assert not page.locator("#marks").is_visible()
        assert not page.locator("#problem").is_visible()
        page.goto("about:blank")  # before the server ends, of which it would complain


def test_a_narrow_window_has_the_panel_below(look: Look) -> None:
    page = look("#run=1", size=(380, 700))
    assert page.locator("#map").bounding_box()["width"] == 380
    page.locator("#fold").click()
    assert not page.locator("#panel").is_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 380


def test_a_run_under_way_fills_up_and_is_shown_whole_when_it_is_done(look: Look, runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "begun.tileseg"
    shutil.copytree(runs / "placed.tileseg", folder)
    summary, record = folder / "summary.json", min((folder / ".state" / "done").rglob("*.json"))
    kept = summary.read_text(), record.read_text()
    summary.unlink()
    record.unlink()
    with serving([look_into(folder)]) as served:
        page = look(at=served.address, ready="!document.getElementById('live').hidden")
        blocks = wait(page, "document.getElementById('left').textContent")
        assert blocks
        count = page.evaluate(
            "() => viewer.map.querySourceFeatures('done').length > 0 && document.getElementById('bar').max"
        )
        assert page.locator("#left").text_content().startswith(f"{count - 1} of {count} blocks")
        assert page.locator("[data-layer=labels]").is_checked()
        record.write_text(kept[1])
        summary.write_text(kept[0])
        wait(page, "document.getElementById('live').hidden && viewer.state.known.tiles")
        wait(page, "viewer.map.areTilesLoaded() && viewer.map.getSource('polygons')")
        assert not page.locator("#live").is_visible()


def test_other_runs_lie_on_the_map_and_open_on_a_click(look: Look, runs: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "east.tif", smooth_noise(64, 96, 3))
    with rasterio.open(scene, "r+") as file:
        file.transform = from_origin(500_300, 4_000_000, 0.5, 0.5)
    name = json.loads((runs / "placed.tileseg" / "summary.json").read_text())["spec"]["model"]
    options = {"model": name, "workers": 0, "formats": "pmtiles"}
    run(RunSpec.parse({"scene": scene, "out": tmp_path / "east.tileseg", **options}))
    with serving([look_into(runs / "placed.tileseg"), look_into(tmp_path / "east.tileseg")]) as served:
        page = look(at=served.address)
        assert [o.text_content() for o in page.locator("#runs option").all()] == ["placed", "east"]
        page.locator("#all").click()
        pixels(page)
        ((lon, lat),) = look_into(tmp_path / "east.tileseg").placement.lonlat(
            look_into(tmp_path / "east.tileseg").placement.of_pixels(np.array([[48.0, 32.0]]))
        )
        x, y = page.evaluate(f"() => Object.values(viewer.map.project([{lon}, {lat}]))")
        page.locator("#map").click(position={"x": x, "y": y})
        wait(page, "document.getElementById('title').textContent === 'east' && viewer.state.known.tiles")
        assert page.locator("#runs").input_value() == "1"
        pixels(page)
