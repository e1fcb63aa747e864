"""What a dataset consists of, as the user writes it in TOML: classes, bands, and where scenes and labels lie."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tileseg.card import ClassInfo, default_color
from tileseg.errors import InputError, UsageError
from tileseg.problems import read_toml
from tileseg.storage.place import file_of, stem_of, with_file

IGNORE = 255
"""Label of pixels whose class is not known: unlabelled, unsure, outside the scene, or without data in the image."""
IGNORE_NAME = "ignore"
"""What ``label_map`` calls it."""

Split = Literal["train", "validate"]
Meaning = int | str
"""A class by id or name, or ``ignore``."""

RASTERS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp", ".vrt", ".img")
"""Suffixes of what is taken for an image in a folder."""
VECTORS = (
    ".geojson", ".json", ".gpkg", ".parquet", ".geoparquet", ".fgb", ".shp", ".gml", ".kml", ".gdb", ".tab",
    ".geojsonl", ".geojsons", ".geojsonseq", ".ndjson",
)  # fmt: skip
"""Suffixes of what is taken for polygons."""


def _as_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _colored(value: Any) -> Any:
    """Classes with a colour each."""
    if not isinstance(value, list):
        return value
    return tuple(
        {"color": default_color(i, background=entry.get("background") is True), **entry}
        if isinstance(entry, dict)
        else entry
        for i, entry in enumerate(value)
    )


Ids = Annotated[tuple[int, ...], BeforeValidator(_as_list)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ReadOptions(_Strict):
    """How images and labels are understood; may be given for one entry, or at the top for all."""

    image_bands: Ids | None = None
    """1-based bands of the image, in the order of the dataset's ``bands``; by default found as ``tileseg run`` does."""
    label_map: dict[str, Meaning] = {}
    """Value (or ``#rrggbb``) of a label raster, or of the polygons' ``attribute`` -> class id, name, or ``ignore``."""
    layer: str | None = None
    """Layer of the polygons' file, where it has several."""
    attribute: str | None = None
    """Column of the polygons that says their class, by name, id or ``label_map``; by default all are ``class``."""
    class_: Annotated[str | None, Field(alias="class")] = None
    """Class of all polygons, where there is no ``attribute``; by default the only one that is no background."""
    ignore_where: dict[str, str | int | bool | Annotated[tuple[str | int, ...], BeforeValidator(_as_list)]] = {}
    """Polygons with such a value (or one of several) in a column cover pixels whose class is not known."""
    known: str | None = None
    """A vector file: labels are complete within its polygons, and nothing is known elsewhere."""
    pixel_size: Annotated[float | None, Field(gt=0, strict=False)] = None
    """Metres per pixel of images that do not say it themselves."""
    trust_vrt: bool = False
    """Whether virtual rasters (VRT) may refer to files outside their own folder."""
    weight: Annotated[float, Field(gt=0, strict=False)] = 1.0
    """How often pixels of it are sampled, over those of others."""
    drawn: bool = False
    """Made by a program instead of a camera: such scenes are scored apart."""
    place: Annotated[str | None, Field(min_length=1)] = None
    """Where on Earth the scenes lie: those of one place are scored together, and places count alike. By default each
    scene is a place of its own."""


class SceneEntry(ReadOptions):
    """One image with its labels."""

    split: Split = "train"
    image: str
    """A raster; one of several in a file by GDAL's name for it, such as ``GTIFF_DIR:2:stack.tif``."""
    labels: str | None = None
    """A raster of class ids on any grid (or one of several in a file), or polygons in any coordinate reference system.
    None: nothing is known of the scene, and a teacher says what is learnt from it.
    """
    name: str | None = None

    @model_validator(mode="after")
    def _scored_by_labels(self) -> SceneEntry:
        if self.labels is None and self.split != "train":
            raise ValueError(f"has no labels, which a scene to {self.split} needs: expected labels")
        return self


class FolderEntry(ReadOptions):
    """Images and labels that go by the same names."""

    images: str
    """A folder, or a pattern with one star such as ``tiles/*_rgb.tif``."""
    labels: str | None = None
    """A folder, a pattern whose star stands for what the images' star stands for, or one file for all images.
    None: nothing is known of the scenes, as with :class:`SceneEntry`."""
    split: Split = "train"
    """Split of all that ``validate`` does not pick."""
    validate_: Annotated[float | str | Names | None, Field(alias="validate")] = None
    """Validation scenes: a list of names (what the star stands for), a regular expression that names match as a
    whole, or a share such as 0.2, drawn by ``seed``."""
    seed: int = 0
    place_from: str | None = None
    """A regular expression that matches names as a whole; its first group is the place, as in ``(.+)_[0-9]+``."""

    @model_validator(mode="after")
    def _sensible(self) -> FolderEntry:
        if self.labels is None and (self.split != "train" or self.validate_ is not None):
            raise ValueError("has no labels, which scenes to validate need: expected labels")
        if self.place_from is not None:
            if "place" in self.model_fields_set:
                raise ValueError("place and place_from both say where scenes lie: expected one of them")
            _check_place_from(self.place_from)
        if isinstance(self.validate_, float) and not 0 <= self.validate_ <= 1:
            raise ValueError(f"validate = {self.validate_}: expected a share between 0 and 1, names or an expression")
        if isinstance(self.validate_, str):
            try:
                re.compile(self.validate_)
            except re.error as error:
                raise ValueError(f"validate = {self.validate_!r} is no regular expression: {error}") from None
        for key, value in (("images", self.images), ("labels", self.labels or "")):
            if value.count("*") > 1 or "*" in str(Path(value).parent):
                raise ValueError(f"{key} = {value!r}: expected a folder, or one star in the file's name")
        return self


def _check_place_from(expression: str) -> None:
    """Raises ValueError for what cannot give a place."""
    try:
        groups = re.compile(expression).groups
    except re.error as error:
        raise ValueError(f"place_from = {expression!r} is no regular expression: {error}") from None
    if not groups:
        raise ValueError(f"place_from = {expression!r}: expected a group that is the place, as in '(.+)_[0-9]+'")


class VocEntry(ReadOptions):
    """A folder as Pascal VOC has it: JPEGImages, SegmentationClass, ImageSets/Segmentation."""

    root: str
    train: str | None = "train"
    """Name of the list of training images, without suffix."""
    validate_: Annotated[str | None, Field(alias="validate")] = "val"
    """Name of the list of validation images."""


class DatasetSpec(ReadOptions):
    """A dataset: what ``DATASET.toml`` may say."""

    classes: Annotated[tuple[ClassInfo, ...], BeforeValidator(_colored), Field(min_length=2, max_length=255)]
    """In the order of their ids, from 0; those without a ``color`` get one."""
    bands: Annotated[Names, Field(min_length=1)] = ("red", "green", "blue")
    """Meaning of the bands that a network will see."""
    ground_sample_distance: Annotated[float | None, Field(gt=0, strict=False)] = None
    """Metres per pixel to which all scenes are resampled; by default each is read as it is."""
    ignore: Ids = ()
    """Values of label rasters that mean that the class is not known, as 255 always does."""
    credits: Names = ()
    """Who made the data, and under which licence; goes into the card of models that are trained on it."""
    scenes: Annotated[tuple[SceneEntry, ...], BeforeValidator(_as_list)] = ()
    folders: Annotated[tuple[FolderEntry, ...], BeforeValidator(_as_list)] = ()
    voc: Annotated[tuple[VocEntry, ...], BeforeValidator(_as_list)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        names = [info.name for info in self.classes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two classes are called {name!r}")
        if IGNORE_NAME in names:
            raise ValueError(f"a class cannot be called {IGNORE_NAME!r}, which means that the class is not known")
        if not (self.scenes or self.folders or self.voc):
            raise ValueError("lists no scenes: expected [[scenes]], [[folders]] or [[voc]]")
        for where, entry in (("", self), *((f"{key}: ", e) for key in _ENTRIES for e in getattr(self, key))):
            for value, meaning in entry.label_map.items():
                if self.id_of(meaning) is None:
                    raise ValueError(f"{where}label_map: {value} = {meaning!r}: {self._expected()}")
            if entry.class_ is not None and entry.class_ not in names:
                raise ValueError(f"{where}class = {entry.class_!r}: {self._expected()}")
            if entry.image_bands is not None and (
                len(entry.image_bands) != len(self.bands) or min(entry.image_bands) < 1
            ):
                raise ValueError(
                    f"{where}image_bands = {list(entry.image_bands)}: expected {len(self.bands)} numbers from 1, "
                    f"for {', '.join(self.bands)}"
                )
        return self

    def id_of(self, meaning: Meaning) -> int | None:
        """The label of a class given by id, name or ``ignore``; None if there is no such class."""
        if meaning == IGNORE_NAME:
            return IGNORE
        if isinstance(meaning, str):
            by_name = {info.name: i for i, info in enumerate(self.classes)}
            return by_name.get(meaning)
        return meaning if 0 <= meaning < len(self.classes) or meaning == IGNORE else None

    @property
    def background(self) -> int:
        """The label of what no polygon covers: the first background class, or not known."""
        return next((i for i, info in enumerate(self.classes) if info.background), IGNORE)

    def _expected(self) -> str:
        listed = ", ".join(f"{info.name!r} ({i})" for i, info in enumerate(self.classes))
        return f"no such class; expected one of {listed}, or {IGNORE_NAME!r}"


_ENTRIES = ("scenes", "folders", "voc")


def read_spec(path: Path) -> DatasetSpec:
    """Read ``DATASET.toml``. Raises InputError in one line."""
    return read_toml(path, DatasetSpec)


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """One image with its labels: files that should exist, and how they are read."""

    name: str
    split: Split
    image: Path
    """One raster of several in a file goes by GDAL's name for it: see :func:`is_there`."""
    labels: Path | None
    """None: nothing is known of the image."""
    reading: ReadOptions
    """What the entry says, completed by what the top of the file says."""

    @property
    def label_file(self) -> Path:
        """The labels of an image that has some."""
        assert self.labels is not None
        return self.labels

    @property
    def place(self) -> str:
        """Where on Earth it lies, as far as scores tell places apart; by default it is a place of its own."""
        return self.reading.place or self.name


def list_pairs(spec: DatasetSpec, folder: Path) -> tuple[list[SceneFiles], list[str]]:
    """All images with their labels, and what is wrong with the entries, one line each.

    Paths are relative to ``folder``, where the TOML lies. The order is that of the file, and by name in folders.
    """
    pairs: list[SceneFiles] = []
    problems: list[str] = []
    for entry in (*spec.scenes, *spec.folders, *spec.voc):
        reading = _complete(spec, entry, folder)
        try:
            match entry:
                case SceneEntry():
                    image = _placed(folder, entry.image)
                    labels = None if entry.labels is None else _placed(folder, entry.labels)
                    pairs.append(SceneFiles(entry.name or stem_of(str(image)), entry.split, image, labels, reading))
                case FolderEntry():
                    pairs.extend(_in_folder(entry, folder, reading, problems))
                case VocEntry():
                    pairs.extend(_in_voc(entry, folder, reading))
        except InputError as error:
            problems.append(str(error))
    return _named_apart(pairs), problems


def _placed(folder: Path, text: str) -> Path:
    """A path of the TOML, which is relative to its folder; in a GDAL name it is the file's that is."""
    plain = folder / text
    return plain if plain.exists() else Path(with_file(text, lambda file: str(folder / file)))


def is_there(path: Path) -> bool:
    """Whether a file exists, or the one that a GDAL name such as ``GTIFF_DIR:2:stack.tif`` is about."""
    return path.exists() or Path(file_of(str(path))).is_file()


def _complete(spec: DatasetSpec, entry: ReadOptions, folder: Path) -> ReadOptions:
    """What an entry says, files as seen from ``folder``; what it does not say is taken from the top of the file."""
    fields = ReadOptions.model_fields
    chosen = {name: getattr(entry if name in entry.model_fields_set else spec, name) for name in fields}
    if chosen["known"] is not None:
        chosen["known"] = str(folder / chosen["known"])
    return ReadOptions.model_construct(**chosen)


def _in_folder(entry: FolderEntry, folder: Path, reading: ReadOptions, problems: list[str]) -> Iterator[SceneFiles]:
    images = _matches(folder, entry.images)
    labels = _labels_of(entry, folder, images)
    if not images:
        raise InputError(f"{folder / entry.images}: no images there; expected {', '.join(RASTERS[:5])} or the like")
    keys = sorted(images, key=_natural)
    chosen = _chosen(entry, keys)
    for key in keys:
        if key in labels:
            split: Split = "validate" if key in chosen else entry.split
            yield SceneFiles(key, split, images[key], labels[key], _placed_by_name(reading, entry, key))
        else:
            problems.append(f"{images[key]}: has no labels: expected {folder / (entry.labels or '')} for {key!r}")
    problems.extend(
        f"{labels[key]}: has no image: expected {folder / entry.images} for {key!r}"
        for key in sorted(labels.keys() - images.keys(), key=_natural)
    )


def _labels_of(entry: FolderEntry, folder: Path, images: Iterable[str]) -> Mapping[str, Path | None]:
    """The labels of images by name: one file for all, files of their own, or none."""
    if entry.labels is None:
        return dict.fromkeys(images)
    one = _placed(folder, entry.labels)
    return dict.fromkeys(images, one) if is_there(one) and not one.is_dir() else _matches(folder, entry.labels)


def _placed_by_name(reading: ReadOptions, entry: FolderEntry, name: str) -> ReadOptions:
    """What an entry says of a scene of this name. Raises InputError where the name tells no place, and should."""
    if entry.place_from is None:
        return reading
    match = re.fullmatch(entry.place_from, name)
    if match is None or not match[1]:
        raise InputError(
            f"{entry.images}: place_from = {entry.place_from!r} finds no place in the name {name!r}; expected it to "
            "match the whole name, with the place as its first group"
        )
    return reading.model_copy(update={"place": match[1]})


def _matches(folder: Path, pattern: str) -> dict[str, Path]:
    """Files of a folder by stem, or of a pattern by what the star stands for."""
    path = folder / pattern
    if "*" not in path.name:
        if not path.is_dir():
            raise InputError(f"{path}: is no folder; expected one, or a pattern with a star such as {pattern}/*.tif")
        files = (file for file in path.iterdir() if file.suffix.lower() in (*RASTERS, *VECTORS))
        return {file.stem: file for file in sorted(files)}
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: is no folder")
    before, _, after = path.name.partition("*")
    names = (file.name for file in path.parent.iterdir())
    fitting = sorted(n for n in names if n.startswith(before) and n.endswith(after) and len(n) > len(before + after))
    return {name[len(before) : len(name) - len(after)]: path.parent / name for name in fitting}


def _chosen(entry: FolderEntry, keys: Sequence[str]) -> frozenset[str]:
    """Names of the validation scenes."""
    wanted = entry.validate_
    if wanted is None:
        return frozenset()
    if isinstance(wanted, str):
        found = frozenset(key for key in keys if re.fullmatch(wanted, key))
        if not found:
            raise InputError(f"{entry.images}: validate = {wanted!r} matches none of {', '.join(keys[:5])} ...")
        return found
    if isinstance(wanted, float):
        # By digest rather than by position, so that further images do not move the others from one side to the other.
        drawn = sorted(keys, key=lambda key: hashlib.sha256(f"{entry.seed} {key}".encode()).digest())
        return frozenset(drawn[: round(wanted * len(keys))])
    missing = [name for name in wanted if name not in keys]
    if missing:
        raise InputError(f"{entry.images}: validate names {missing[0]!r}; there are only {', '.join(keys[:8])} ...")
    return frozenset(wanted)


def _in_voc(entry: VocEntry, folder: Path, reading: ReadOptions) -> Iterator[SceneFiles]:
    root = folder / entry.root
    lists: tuple[tuple[Split, str | None], ...] = (("train", entry.train), ("validate", entry.validate_))
    for split, name in lists:
        if name is None:
            continue
        path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        try:
            keys = path.read_text(encoding="utf-8-sig").split()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read: {error.strerror or error}; expected a Pascal VOC list"
            ) from error
        for key in keys:
            image = next(
                (
                    p
                    for suffix in (".jpg", ".jpeg", ".png", ".tif")
                    if (p := root / "JPEGImages" / f"{key}{suffix}").is_file()
                ),
                root / "JPEGImages" / f"{key}.jpg",
            )
            yield SceneFiles(key, split, image, root / "SegmentationClass" / f"{key}.png", reading)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _named_apart(pairs: list[SceneFiles]) -> list[SceneFiles]:
    """Each pair under a name of its own."""
    seen: dict[str, int] = {}
    apart = []
    for pair in pairs:
        seen[pair.name] = count = seen.get(pair.name, 0) + 1
        name = pair.name if count == 1 else f"{pair.name}-{count}"
        apart.append(SceneFiles(name, pair.split, pair.image, pair.labels, pair.reading))
    return apart


def parse_gsd(value: float | Literal["native"] | None, spec: DatasetSpec) -> float | None:
    """Metres per pixel to read at: what is asked for, else what the dataset says; None: as the scenes are."""
    if value is None:
        return spec.ground_sample_distance
    if value == "native":
        return None
    if not 0 < value < 1e6:
        raise UsageError(f"--gsd {value}: expected metres per pixel, or native")
    return float(value)
