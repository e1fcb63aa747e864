"""What must match for a run to go on in a folder, what may change on the way, and what is refused in one line."""

import hashlib
import json
import shutil
import threading
from pathlib import Path

import geopandas
import pytest
from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.card import ModelCard
from tileseg.errors import InputError, Interrupted, LockedError, OutputsGone, UsageError
from tileseg.nn.folder import load_card
from tileseg.run.folder import begin, finished, hold
from tileseg.run.identity import differences
from tileseg.run.prepare import prepare
from tileseg.run.report import Silent
from tileseg.storage import lease

HEIGHT, WIDTH = 190, 262

TOLD = ("summary.json", "scene.qgz")
"""What says when and from where: not the same in another folder."""


class StopsAfter(Silent):
    """Asks a run to stop after some blocks, and keeps what it was told."""

    def __init__(self, blocks: int) -> None:
        self.stop, self.left, self.notices = threading.Event(), blocks, []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def block(self, record, pixels) -> None:
        self.left -= 1
        if self.left <= 0:
            self.stop.set()


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(HEIGHT, WIDTH, 3))


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    wish = {"scene": scene, "model": str(model), "out": out, "block": 96, "workers": 0, "precision": "float32"}
    return RunSpec.parse({**wish, **options})


def stopped(wish: RunSpec, blocks: int = 2) -> None:
    first = StopsAfter(blocks)
    with pytest.raises(Interrupted):
        run(wish, first, first.stop)


def delivered(folder: Path) -> dict[str, str]:
    """Digest of every delivered file but those that tell the time."""
    files = [p for p in folder.rglob("*") if p.is_file() and ".state" not in p.parts and p.name not in TOLD]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def undisturbed(scene, model, tmp_path_factory) -> Path:
    return run(spec(scene, model, tmp_path_factory.mktemp("out") / "run")).folder


# --- The card ------------------------------------------------------------------------------------------------------


def edited(model: Path, to: Path, **changes) -> Path:
    """A copy of a model whose card says other things."""
    shutil.copytree(model, to)
    card = json.loads((to / "card.json").read_text())
    (to / "card.json").write_text(json.dumps({**card, **changes}))
    return to


def other_classes(names: tuple[str, ...]) -> list[dict]:
    return [{"name": name, "color": "#c8b48c", "background": i == 0} for i, name in enumerate(names)]


DECIDES = {
    "scaling": {"divisor": 128, "mean": [0.4], "std": [0.2]},
    "classes": other_classes(("ground", "water", "roof")),
    "bands": ["blue", "green", "red"],
    "dtypes": ["uint16"],
    "activation": "softmax",
    "stride": 8,
    "radius": 40,
    "local": False,
    "name": "another",
}
SAYS_NOTHING_OF_THE_RESULT = {
    "description": "better words",
    "credits": ["somebody"],
    "training": {"score": 0.9},
    "flops_per_pixel": 12345.0,
    "activation_bytes_per_pixel": 99.0,
    "parameters": 7,
    "nonlocal_layers": ["none"],
    "appearance": {"middle": [0.0], "deviation": [1.0], "far": 2.0, "places": {}},
    "ground_sample_distance": 0.5,  # as that of the scene, which is not resampled then
}


def test_every_field_of_a_card_is_known_here() -> None:
    # Constant; compared as the model; follows from the classes; the others are tested with polygons and probabilities.
    apart = {"format", "forms", "output_channels", "temperature", "hands_over", "objects"}
    assert set(DECIDES) | set(SAYS_NOTHING_OF_THE_RESULT) | apart == set(ModelCard.model_fields)


@pytest.fixture(scope="module")
def begun(scene, model, tmp_path_factory) -> Path:
    """A run that was stopped after two blocks; its model is beside it."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(model, folder / "model")
    stopped(spec(scene, folder / "model", folder / "run"))
    return folder


@pytest.mark.parametrize("field", sorted(DECIDES))
def test_a_card_that_decides_otherwise_is_refused(scene, begun, tmp_path, field) -> None:
    there = edited(begun / "model", tmp_path / "model", **{field: DECIDES[field]})
    assert load_card(there).digest != load_card(begun / "model").digest
    prepared = prepare(spec(scene, there, begun / "run"))
    assert "card" in differences(prepared)
    with (
        pytest.raises(
            UsageError, match=rf"the card's {field}[.\w]* was .*; choose another --out, or start anew"
        ) as raised,
        hold(prepared, lambda: None) as held,
    ):
        begin(prepared, held)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", sorted(SAYS_NOTHING_OF_THE_RESULT))
def test_a_card_that_says_more_goes_on(scene, begun, tmp_path, field) -> None:
    there = edited(begun / "model", tmp_path / "model", **{field: SAYS_NOTHING_OF_THE_RESULT[field]})
    assert load_card(there).digest == load_card(begun / "model").digest
    assert differences(prepare(spec(scene, there, begun / "run"))) == []


def test_a_finished_run_of_another_card_is_refused(scene, model, undisturbed, tmp_path) -> None:
    there = edited(model, tmp_path / "model", classes=DECIDES["classes"])
    with pytest.raises(UsageError, match=r"the card's classes\.\d\.name was \w+, is \w+"):
        finished(prepare(spec(scene, there, undisturbed)))


def test_a_folder_of_an_earlier_version_is_refused_by_that(scene, begun, model, tmp_path) -> None:
    shutil.copytree(begun / "run", tmp_path / "run")
    state = tmp_path / "run" / ".state" / "run.json"
    # As versions before 2 wrote it.
    old = {"identity": {"algorithm": 1, "scene": "x"}, "plan": {"block": [96, 96]}, "begun": "1", "scene": "s.tif"}
    state.write_text(json.dumps(old))
    with pytest.raises(UsageError, match=r"run: made by another version of tileseg, .*--overwrite$"):
        run(spec(scene, model, tmp_path / "run"))


# --- Sizes ---------------------------------------------------------------------------------------------------------


def test_less_memory_after_a_kill_is_heeded(scene, model, tmp_path, undisturbed) -> None:
    """The windows become smaller, the blocks stay, and not a byte of the result is another one."""
    wish = spec(scene, model, tmp_path / "run", batch=4, window=96)
    stopped(wish)
    before = json.loads((tmp_path / "run/.state/run.json").read_text())["sizes"]
    enough = prepare(wish).plan.memory.total
    listener = StopsAfter(99)
    # Less than these sizes take; the batch is not asked for any more.
    report = run(spec(scene, model, tmp_path / "run", max_memory=enough - 1), listener)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert report.computed == 6 - 2
    assert summary["plan"]["memory_bytes"] < enough
    assert summary["plan"]["block"] == before["block"]
    assert summary["earlier_sizes"] == [before]
    assert [n for n in listener.notices if n.startswith("windows of ") and "as in the blocks that are done" in n]
    assert delivered(report.folder) == delivered(undisturbed)


def test_enough_memory_changes_no_size(scene, model, tmp_path) -> None:
    stopped(spec(scene, model, tmp_path / "run", window=96))
    listener = StopsAfter(99)
    run(spec(scene, model, tmp_path / "run", max_memory="64GiB"), listener)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["earlier_sizes"] == []
    assert not [n for n in listener.notices if "windows" in n]


def test_windows_of_another_size_are_for_float32_alone(scene, keras_model, tmp_path) -> None:
    stopped(spec(scene, keras_model, tmp_path / "run", precision="bfloat16", window=96))
    with pytest.raises(UsageError, match=r"\(window was 96, is 64\)"):
        run(spec(scene, keras_model, tmp_path / "run", precision="bfloat16", window=64))
    needed = prepare(spec(scene, keras_model, tmp_path / "run", precision="bfloat16", window=96)).plan.memory.total
    with pytest.raises(UsageError, match=r"in bfloat16 other windows would give another result; .*--overwrite") as told:
        run(spec(scene, keras_model, tmp_path / "run", precision="bfloat16", window=96, max_memory=needed - 1))
    assert "\n" not in str(told.value)


def test_blended_windows_keep_their_size(scene, model, tmp_path) -> None:
    stopped(spec(scene, model, tmp_path / "run", stitch="hann", window=64))
    with pytest.raises(UsageError, match=r"window was 64, is 96"):
        run(spec(scene, model, tmp_path / "run", stitch="hann", window=96))


def test_a_finished_run_has_no_windows_any_more(scene, model, undisturbed) -> None:
    assert run(spec(scene, model, undisturbed, window=64, batch=2)).finished_before


def test_too_little_memory_for_the_blocks_says_so(scene, model, begun) -> None:
    needed = prepare(spec(scene, begun / "model", begun / "run")).plan.memory.total
    with pytest.raises(UsageError, match=r"--max-memory .* is too little"):
        run(spec(scene, begun / "model", begun / "run", max_memory=needed // 2))


# --- Polygons by other options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"formats": "geojson,gpkg,parquet"},
        {"min_area": "40px"},
        {"fill_holes": "30px", "simplify": "1px"},
        {"classes": "ground,water"},
        {"connectivity": 8, "formats": "fgb"},
        {"regularize": "all", "tolerance": "3px"},
    ],
    ids=str,
)
def test_polygons_of_a_finished_run_are_made_anew(scene, model, tmp_path, undisturbed, options) -> None:
    """Without the network, and byte for byte as a new run with these options would make them."""
    fresh = run(spec(scene, model, tmp_path / "fresh", **options)).folder
    shutil.copytree(undisturbed, tmp_path / "run")
    report = run(spec(scene, model, tmp_path / "run", **options))
    assert (report.computed, report.only_polygons) == (0, True)
    assert delivered(tmp_path / "run") == delivered(fresh)
    mine, theirs = (json.loads((f / "summary.json").read_text()) for f in (tmp_path / "run", fresh))
    assert mine["identity"] == theirs["identity"]
    assert mine["report"]["polygons"] == theirs["report"]["polygons"]
    assert run(spec(scene, model, tmp_path / "run", **options)).finished_before
    assert not (tmp_path / "run/.state/fragments").exists()


def test_an_unfinished_run_goes_on_with_other_polygons(scene, model, tmp_path) -> None:
    options = {"connectivity": 8, "classes": "water", "formats": "gpkg"}
    fresh = run(spec(scene, model, tmp_path / "fresh", **options)).folder
    stopped(spec(scene, model, tmp_path / "run"), blocks=3)
    report = run(spec(scene, model, tmp_path / "run", **options))
    assert report.computed == 3
    assert delivered(tmp_path / "run") == delivered(fresh)


def test_old_polygons_stay_until_the_new_ones_are_there(scene, model, tmp_path, undisturbed, monkeypatch) -> None:
    from tileseg.run import vectorize

    shutil.copytree(undisturbed, tmp_path / "run")
    before = delivered(tmp_path / "run")

    def fail(*_: object) -> None:
        raise InputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(vectorize, "write_polygons", fail)
        with pytest.raises(InputError, match="no"):
            run(spec(scene, model, tmp_path / "run", min_area="40px", formats="gpkg"))
    assert delivered(tmp_path / "run") == before
    assert run(spec(scene, model, tmp_path / "run")).finished_before


def test_labels_alone_give_no_other_polygons(scene, model, tmp_path) -> None:
    run(spec(scene, model, tmp_path / "run", keep="labels"))
    with pytest.raises(UsageError, match=r"min-area was not given, is 9px; with --keep labels .*; tileseg vectorize"):
        run(spec(scene, model, tmp_path / "run", keep="labels", min_area="9px"))


# --- What is not ours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[1, 2]", '"done"', "7", "null", "{}", '{"identity": 3}', '{"report": {}}', "{no"])
@pytest.mark.parametrize("name", ["summary.json", ".state/run.json"])
def test_a_file_of_somebody_else_is_named_and_stays(scene, model, tmp_path, name, text) -> None:
    file = tmp_path / "run" / name
    (tmp_path / "run/.state").mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(InputError, match=rf"run/{name}: (not written by tileseg|damaged).*--overwrite") as raised:
        run(spec(scene, model, tmp_path / "run"))
    assert "\n" not in str(raised.value)
    assert file.read_text() == text


@pytest.mark.parametrize("text", ["[]", '{"index": "a"}', "3", "{torn"])
def test_a_record_of_somebody_else_is_named_and_stays(scene, begun, tmp_path, text) -> None:
    shutil.copytree(begun / "run", tmp_path / "run")
    record = min((tmp_path / "run/.state/done").rglob("*.json"))
    record.write_text(text)
    (record.parent / "notes.json").write_text("mine")
    with pytest.raises(InputError, match=r"\.json: damaged, or not of tileseg"):
        run(spec(scene, begun / "model", tmp_path / "run"))
    assert record.read_text() == text


@pytest.mark.parametrize("name", ["labels.tif", "polygons.geojson", "mosaic.zarr", "summary.json"])
def test_files_that_no_run_wrote_are_not_replaced(scene, model, tmp_path, name) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("{}")
    with pytest.raises((UsageError, InputError), match=r"--overwrite") as raised:
        run(spec(scene, model, folder))
    assert name in str(raised.value)
    assert (folder / name).read_text() == "{}"
    assert [p.name for p in folder.iterdir()] == [name]


def test_records_that_cannot_be_removed_are_not_gone_on_with(scene, begun, tmp_path, monkeypatch) -> None:
    shutil.copytree(begun / "run", tmp_path / "run")
    done = tmp_path / "run/.state/done"

    def refuse(path: Path, **options: bool) -> None:
        if not options.get("ignore_errors") and Path(path) == done:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(InputError, match=r"done: cannot be removed: Permission denied"):
        run(spec(scene, begun / "model", tmp_path / "run", flips="h", overwrite=True))


# --- The picture, and the lease ------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_read_fails_no_run(scene, model, tmp_path, monkeypatch) -> None:
    from tileseg.source import picture

    def fail(*_: object) -> None:
        raise InputError("scene.tif: cannot be read at rows 0-95")

    monkeypatch.setattr(picture, "overview_rgb", fail)
    listener = StopsAfter(99)
    report = run(spec(scene, model, tmp_path / "run"), listener)
    assert "no quicklook.png: scene.tif: cannot be read at rows 0-95" in listener.notices
    assert "quicklook" not in report.outputs
    assert (tmp_path / "run/labels.tif").exists()
    assert run(spec(scene, model, tmp_path / "run")).finished_before


def test_the_picture_of_an_area_reads_no_more_than_that(scene, model, tmp_path, monkeypatch) -> None:
    from shapely.geometry import box

    from tileseg.source import picture

    seen = []
    overview = picture.overview_rgb

    def looking(*given: object) -> object:
        seen.append(given[2])
        return overview(*given)

    monkeypatch.setattr(picture, "overview_rgb", looking)
    # Pixels are half a metre: rows 20-59, columns 100-149.
    area = geopandas.GeoDataFrame(geometry=[box(500_050, 4_000_000 - 30, 500_075, 4_000_000 - 10)], crs=32637)
    area.to_file(tmp_path / "area.gpkg")
    run(spec(scene, model, tmp_path / "run", aoi=tmp_path / "area.gpkg"))
    (window,) = seen
    assert (window.row_off, window.col_off) == pytest.approx((20, 100), abs=1)
    assert (window.height, window.width) == pytest.approx((40, 50), abs=2)
    assert (tmp_path / "run/quicklook.png").stat().st_size > 1000


def test_who_lost_the_folder_writes_no_outputs(scene, model, tmp_path, monkeypatch) -> None:
    """Also where the polygons are written already: what the other process has made stays."""
    from tileseg.run import finish

    folder = tmp_path / "run"
    made = finish._vectors

    def others_take_over(*given: object) -> object:
        counts = made(*given)
        (folder / "polygons.geojson").write_text("theirs")
        number = max(int(p.name[6:]) for p in (folder / ".state").glob("lease-*")) + 1
        theirs = {"process": 7, "host": "elsewhere", "boot": "another", "token": "t"}
        (folder / f".state/lease-{number:06d}").write_text(json.dumps(theirs))
        return counts

    monkeypatch.setattr(finish, "_vectors", others_take_over)
    with pytest.raises(LockedError, match="process 7 on elsewhere took over"):
        run(spec(scene, model, folder))
    assert (folder / "polygons.geojson").read_text() == "theirs"
    assert not (folder / "summary.json").exists()
    assert not list(folder.glob(".*.partial"))


def test_a_lease_that_another_process_wrote_is_not_ours(tmp_path) -> None:
    def stand_still() -> None:
        with lease.hold(tmp_path) as held:
            held.check()
            path = tmp_path / "lease-000001"
            path.write_text(json.dumps({**json.loads(path.read_text()), "token": "theirs", "host": "elsewhere"}))
            held.check()

    with pytest.raises(LockedError, match="on elsewhere took over"):
        stand_still()


def test_what_killed_processes_left_is_removed(scene, model, tmp_path) -> None:
    left = tmp_path / "run/.0123.partial"
    left.mkdir(parents=True)
    (left / "labels.tif").write_text("half")
    run(spec(scene, model, tmp_path / "run"))
    assert not left.exists()


def test_a_disk_that_becomes_read_only_is_told_in_one_line(scene, model, tmp_path, monkeypatch) -> None:
    from tileseg.errors import TilesegError
    from tileseg.run import finish

    def fail(path, *_: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_atomic", fail)
        with pytest.raises(TilesegError, match=r"run\.json: cannot be written: Read-only file system; .*is kept"):
            run(spec(scene, model, tmp_path / "run"))
    again = run(spec(scene, model, tmp_path / "run"))
    assert again.computed == 0
    assert not again.finished_before


def test_outputs_gone_and_no_record(scene, model, tmp_path, undisturbed) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run/.state/run.json").unlink()
    with pytest.raises(OutputsGone, match=r"run\.json is not there any more"):
        run(spec(scene, model, tmp_path / "run", min_area="9px"))


def test_a_folder_that_is_not_utf_8_is_refused(scene, model, tmp_path) -> None:
    with pytest.raises(InputError, match=r"caf\\xe9: its name, .* is not UTF-8; choose another --out"):
        run(spec(scene, model, tmp_path / "caf\udce9"))
    assert list(tmp_path.iterdir()) == []
