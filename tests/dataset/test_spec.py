"""What the user writes is understood, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import CLASSES, dataset

from tileseg.card import default_color
from tileseg.dataset.spec import IGNORE, DatasetSpec, SceneFiles, list_pairs, parse_gsd, read_spec
from tileseg.errors import InputError, UsageError
from tileseg.spec import read_config


def pairs_of(path: Path) -> tuple[list[SceneFiles], list[str]]:
    return list_pairs(read_spec(path), path.parent)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_spec(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 42
    return str(caught.value)


def test_entries_complete_what_they_say_by_the_top_of_the_file(tmp_path: Path) -> None:
    path = dataset(
        tmp_path,
        """
        label_map = { 0 = "ground", 255 = "building", 7 = "ignore" }
        weight = 2
        credits = ["somebody, CC BY 4.0"]
        [[scenes]]
        image = "a.tif"
        labels = "a_labels.tif"
        [[scenes]]
        split = "validate"
        image = "deep/b.tif"
        labels = "b.geojson"
        label_map = { 3 = 2 }
        weight = 0.5
        """,
    )
    (first, second), problems = pairs_of(path)
    assert problems == []
    assert (first.name, first.split, first.image, first.labels) == (
        "a", "train", tmp_path / "a.tif", tmp_path / "a_labels.tif",
    )  # fmt: skip
    assert (first.reading.weight, second.reading.weight) == (2, 0.5)
    assert first.reading.label_map == {"0": "ground", "255": "building", "7": "ignore"}
    assert second.reading.label_map == {"3": 2}
    assert (second.name, second.split) == ("b", "validate")
    spec = read_spec(path)
    assert [spec.id_of(m) for m in ("water", "ignore", 1, 255, "sea", 3)] == [2, IGNORE, 1, IGNORE, None, None]
    assert spec.background == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "lists no scenes"),
        ("[[scenes]]\nimage = 'a.tif'\nsplit = 'validate'", "has no labels, which a scene to validate needs"),
        ("[[folders]]\nimages = 'i'\nvalidate = 0.2", "has no labels, which scenes to validate need"),
        (
            "[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\nlabel = 3",
            "scenes.0.label: is not known (did you mean labels?); expected one of image_bands, label_map",
        ),
        ("[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\nsplit = 'test'", "'train' or 'validate'"),
        ("[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\nlabel_map = { 1 = 'hut' }", "1 = 'hut': no such class"),
        ("[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\nclass = 'hut'", "class = 'hut'"),
        ("[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\nimage_bands = [1]", "expected 3 numbers"),
        ("[[folders]]\nimages = '*/a.tif'\nlabels = 'l'", "one star in the file's name"),
        ("[[folders]]\nimages = 'i'\nlabels = 'l'\nvalidate = '('", "no regular expression"),
        ("[[folders]]\nimages = 'i'\nlabels = 'l'\nvalidate = 1.5", "between 0 and 1"),
        ("[[folders]]\nimages = 'i'\nlabels = 'l'\nplace_from = '(.+'", "place_from = '(.+' is no regular expression"),
        ("[[folders]]\nimages = 'i'\nlabels = 'l'\nplace_from = '.+_0'", "expected a group that is the place"),
        ("[[folders]]\nimages = 'i'\nlabels = 'l'\nplace_from = '(.+)'\nplace = 'a'", "expected one of them"),
        ("[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\nplace = ''", "scenes.0.place"),
        ("ground_sample_distance = 0\n[[voc]]\nroot = '.'", "greater than 0"),
        ("[[scene]]\nimage = 'a.tif'", "scene: is not known (did you mean scenes?); expected one of image_bands, "),
        ("[scenes]\nimage = 'a.tif'", "scenes: expected a list, not {'image': 'a.tif'}"),
        ("[[folders]]\nimages = 'a'\nlabels = 'l'\nvalid = 3", "folders.0.valid: is not known"),
        ("scenes = 3", "not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = dataset(tmp_path, text)
    if told == "not TOML":
        path.write_text("scenes = [")
    assert told in refusal(path)


def test_classes_are_tables(tmp_path: Path) -> None:
    told = refusal(dataset(tmp_path, "[[voc]]\nroot = '.'", 'classes = ["a", "b"]'))
    assert "classes.0: expected a table of name, color, background, not 'a'" in told


def test_classes_have_names_of_their_own(tmp_path: Path) -> None:
    twice = CLASSES.replace("water", "building")
    assert "two classes are called 'building'" in refusal(dataset(tmp_path, "[[voc]]\nroot = '.'", twice))
    reserved = CLASSES.replace("water", "ignore")
    assert "cannot be called 'ignore'" in refusal(dataset(tmp_path, "[[voc]]\nroot = '.'", reserved))
    assert "cannot be read" in refusal(tmp_path / "missing.toml")


def test_folders_pair_files_by_stem_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "image/10.jpg", "image/2.JPG", "image/1.png", "image/notes.txt", "label/1.png", "label/2.png")
    touch(tmp_path, "label/10.tif", "label/11.png")
    path = dataset(tmp_path, "[[folders]]\nimages = 'image'\nlabels = 'label'\nvalidate = ['2']")
    pairs, problems = pairs_of(path)
    assert [(p.name, p.split, p.image.name, p.labels.name) for p in pairs] == [
        ("1", "train", "1.png", "1.png"),
        ("2", "validate", "2.JPG", "2.png"),
        ("10", "train", "10.jpg", "10.tif"),
    ]
    assert len(problems) == 1
    assert "11.png: has no image" in problems[0]


def test_a_star_pairs_files_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x_rgb.tif", "y_rgb.tif", "z_rgb.tif", "x_mask.tif", "y_mask.tif", "_rgb.tif", "all.geojson")
    path = dataset(tmp_path, "[[folders]]\nimages = '*_rgb.tif'\nlabels = '*_mask.tif'\nvalidate = '[yw]'")
    pairs, problems = pairs_of(path)
    assert [(p.name, p.split) for p in pairs] == [("x", "train"), ("y", "validate")]
    assert len(problems) == 1
    assert "z_rgb.tif: has no labels" in problems[0]
    path = dataset(tmp_path, "[[folders]]\nimages = '*_rgb.tif'\nlabels = 'all.geojson'\nsplit = 'validate'")
    pairs, problems = pairs_of(path)
    assert problems == []
    assert {(p.split, p.labels.name) for p in pairs} == {("validate", "all.geojson")}


def test_a_share_is_drawn_by_seed_and_stays_when_images_are_added(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(40)]
    for name in names:
        touch(tmp_path, f"image/{name}", f"label/{name}")
    text = "[[folders]]\nimages = 'image'\nlabels = 'label'\nvalidate = 0.25\n"

    def drawn(extra: str = "") -> set[str]:
        return {p.name for p in pairs_of(dataset(tmp_path, text + extra))[0] if p.split == "validate"}

    first = drawn()
    assert len(first) == 10
    assert drawn() == first
    assert drawn("seed = 1") != first
    for i in range(40, 44):
        touch(tmp_path, f"image/{i}.png", f"label/{i}.png")
    assert len(drawn() & first) >= 8


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("images = 'nowhere'\nlabels = 'label'", "nowhere: is no folder"),
        ("images = 'image'\nlabels = 'label'", "image: no images there"),
        ("images = 'label'\nlabels = 'label'\nvalidate = ['b']", "validate names 'b'"),
        ("images = 'label'\nlabels = 'label'\nvalidate = 'b+'", "matches none of a"),
    ],
)
def test_folders_that_do_not_fit_are_problems(tmp_path: Path, entry: str, told: str) -> None:
    touch(tmp_path, "image/notes.txt", "label/a.png")
    pairs, problems = pairs_of(dataset(tmp_path, f"[[folders]]\n{entry}"))
    assert pairs == []
    assert len(problems) == 1
    assert told in problems[0]


def test_pascal_voc(tmp_path: Path) -> None:
    touch(tmp_path, "voc/JPEGImages/b.png")
    lists = tmp_path / "voc/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_2\n")
    (lists / "val.txt").write_text("b\n")
    pairs, problems = pairs_of(dataset(tmp_path, "[[voc]]\nroot = 'voc'"))
    assert problems == []
    voc = tmp_path / "voc"
    assert [(p.name, p.split, p.image, p.labels) for p in pairs] == [
        ("2007_1", "train", voc / "JPEGImages/2007_1.jpg", voc / "SegmentationClass/2007_1.png"),
        ("2007_2", "train", voc / "JPEGImages/2007_2.jpg", voc / "SegmentationClass/2007_2.png"),
        ("b", "validate", voc / "JPEGImages/b.png", voc / "SegmentationClass/b.png"),
    ]
    _, problems = pairs_of(dataset(tmp_path, "[[voc]]\nroot = 'voc'\ntrain = 'trainaug'"))
    assert "trainaug.txt: cannot be read" in problems[0]


def test_names_are_unique(tmp_path: Path) -> None:
    text = "".join(f"[[scenes]]\nimage = '{d}/a.tif'\nlabels = 'b.tif'\n" for d in "xyz")
    pairs, _ = pairs_of(dataset(tmp_path, text))
    assert [p.name for p in pairs] == ["a", "a-2", "a-3"]


def test_places_are_said_by_entry_by_name_or_are_the_scene_itself(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n}{end}.tif" for n in ("nairobi_0", "nairobi_1", "las_vegas_0") for end in ("_rgb", "_mask")))
    touch(tmp_path, "a.tif", "b.tif", "labels.tif")
    text = (
        'place = "nowhere"\n[[scenes]]\nimage = "a.tif"\nlabels = "labels.tif"\n'
        '[[scenes]]\nimage = "b.tif"\nlabels = "labels.tif"\nplace = "somewhere"\n'
        '[[folders]]\nimages = "*_rgb.tif"\nlabels = "*_mask.tif"\nplace_from = "(.+)_[0-9]+"\n'
    )
    pairs, problems = pairs_of(dataset(tmp_path, text))
    assert problems == []
    assert {pair.name: pair.place for pair in pairs} == {
        "a": "nowhere", "b": "somewhere", "las_vegas_0": "las_vegas", "nairobi_0": "nairobi", "nairobi_1": "nairobi"
    }  # fmt: skip
    own, _ = pairs_of(dataset(tmp_path, text.replace('place = "nowhere"', "").split("[[folders]]")[0]))
    assert [pair.place for pair in own] == ["a", "somewhere"]


def test_a_name_that_tells_no_place_is_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, "hill_rgb.tif", "hill_mask.tif")
    entry = '[[folders]]\nimages = "*_rgb.tif"\nlabels = "*_mask.tif"\nplace_from = "(.+)_[0-9]+"\n'
    _, problems = pairs_of(dataset(tmp_path, entry))
    assert len(problems) == 1
    assert "finds no place in the name 'hill'" in problems[0]


def test_the_ground_sample_distance_asked_for_comes_first(tmp_path: Path) -> None:
    spec = read_spec(dataset(tmp_path, "ground_sample_distance = 0.3\n[[voc]]\nroot = '.'"))
    assert isinstance(spec, DatasetSpec)
    assert [parse_gsd(value, spec) for value in (None, "native", 1, 0.15)] == [0.3, None, 1.0, 0.15]
    with pytest.raises(UsageError, match="--gsd -1"):
        parse_gsd(-1, spec)


def test_classes_without_a_color_get_one_each() -> None:
    spec = DatasetSpec.model_validate(
        {
            "classes": [{"name": "sky", "background": True}, {"name": "tree"}, {"name": "hut", "color": "#123456"}],
            "scenes": [{"image": "a.tif", "labels": "l.tif"}],
        }
    )
    sky, tree, hut = (info.color for info in spec.classes)
    assert (sky, hut) == (default_color(0, background=True), "#123456")
    assert len({sky, tree, hut}) == 3


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    """Editors on Windows begin a file with one."""
    path = dataset(tmp_path, "[[scenes]]\nimage = 'a.tif'\nlabels = 'b.tif'\ndrawn = true\n")
    plain = read_spec(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_spec(path) == plain
    config = tmp_path / "train.toml"
    config.write_bytes("steps = 3\n".encode("utf-8-sig"))
    assert read_config(config) == {"steps": 3}
