"""Which class of the prediction is which class of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tileseg.card import ClassInfo, default_color
from tileseg.dataset.doubts import percent
from tileseg.dataset.spec import IGNORE, IGNORE_NAME
from tileseg.errors import UsageError
from tileseg.evaluate.sides import ALL, Side

REST = "*"
"""In a map: all values that it does not name."""


@dataclass(frozen=True)
class Meaning:
    """The classes that are scored, and what each side's values are among them."""

    classes: tuple[ClassInfo, ...]
    truth: Mapping[str, int]
    """Value -> class id, or IGNORE."""
    prediction: Mapping[str, int]
    """Value -> class id, or IGNORE."""
    notices: tuple[str, ...] = ()


def agree(
    truth: Side,
    prediction: Side,
    *,
    names: Sequence[str] = (),
    map_truth: Sequence[str] = (),
    map_prediction: Sequence[str] = (),
) -> Meaning:
    """Find the classes, and what the values of both sides mean.

    The classes are those of the truth if it names them, else of the prediction unless its own map renames them;
    ``names`` gives or replaces them, by id. Values are matched
    by name where both sides have names, else by id. The maps are texts such as ``building=1`` (value or name of that
    side = name or id of a class, or ``ignore``); ``*=0`` stands for all others that no class is called like. Values of
    the prediction that its map leaves out, and that no class is called like, are background. Raises UsageError where
    something has no counterpart.
    """
    to_truth, to_prediction = _parse("--map-truth", map_truth), _parse("--map", map_prediction)
    _refuse_mask(truth, to_truth, "--map-truth", names or _foreground(prediction))
    _refuse_mask(prediction, to_prediction, "--map", names or _foreground(truth))
    legend, notices = _find_classes(truth, prediction, names, to_truth, to_prediction)
    of_truth, _ = _assign(truth, legend, to_truth, "--map-truth", rest_is_background=False)
    of_prediction, left = _assign(prediction, legend, to_prediction, "--map", rest_is_background=True)
    notices += _gaps(legend, of_prediction, left, str(prediction.path))
    notices += _hidden(truth, legend, of_truth, "--map-truth") + _hidden(prediction, legend, of_prediction, "--map")
    return Meaning(legend.infos, of_truth, of_prediction, tuple(notices))


def match_classes(classes: Sequence[ClassInfo], predicted: Side, maps: Sequence[str] = ()) -> Meaning:
    """The same where the truth's classes are known: by name, unless ``maps`` says otherwise. Raises UsageError."""
    legend = _Legend(tuple(classes), tuple(range(len(classes))))
    found, left = _assign(predicted, legend, _parse("--map", maps), "--map", rest_is_background=True)
    notices = _gaps(legend, found, left, "the model")
    return Meaning(legend.infos, {str(i): i for i in legend.numbers}, found, tuple(notices))


@dataclass(frozen=True)
class _Legend:
    """The classes that are scored."""

    infos: tuple[ClassInfo, ...]
    numbers: tuple[int, ...]
    """What the files call each, which may leave gaps."""
    remedy: str = ""
    """What to do where a name is not among them, as the end of a sentence."""

    def find(self, text: str) -> int | None:
        """Position of a class, by its name or number; None if there is no such class."""
        names = [info.name.casefold() for info in self.infos]
        if text.casefold() in names:
            return names.index(text.casefold())
        return self.numbers.index(int(text)) if _is_id(text) and int(text) in self.numbers else None

    @property
    def background(self) -> int | None:
        """Position of the first class that is background."""
        return next((i for i, info in enumerate(self.infos) if info.background), None)

    def __str__(self) -> str:
        pairs = zip(self.numbers, self.infos, strict=True)
        return ", ".join(info.name if info.name == str(i) else f"{info.name} ({i})" for i, info in pairs)


def _gaps(legend: _Legend, found: Mapping[str, int], left: Sequence[str], who: str) -> list[str]:
    """Notices about predicted classes that no map names, and about classes that are never predicted."""
    unseen = [c.name for i, c in enumerate(legend.infos) if i not in found.values() and not c.background]
    notices = [f"--map does not name {', '.join(left)}: counted as background"] if left else []
    return [*notices, f"{who} cannot give {', '.join(unseen)}"] if unseen else notices


def _is_class(nodata: str | None, legend: _Legend) -> bool:
    """Whether a raster's nodata value looks like a class: it is the number of one, or 0, which mostly is background."""
    return nodata is not None and _is_id(nodata) and (int(nodata) in legend.numbers or nodata == "0")


def _hidden(side: Side, legend: _Legend, found: Mapping[str, int], option: str) -> list[str]:
    """What to say where a side calls a class nodata, so that its pixels are not compared."""
    if not side.hidden or side.nodata is None or side.nodata in found or not _is_class(side.nodata, legend):
        return []
    position = legend.find(side.nodata)
    position = legend.background if position is None else position
    name = "a class" if position is None else repr(legend.infos[position].name)
    wanted = "CLASS" if position is None else legend.infos[position].name
    # All of them: values of the prediction that a map leaves out count as background.
    listed = {side.nodata: wanted, **{v: legend.infos[i].name for v, i in found.items() if i != IGNORE}}
    mapped = ",".join(f"{value}={listed[value]}" for value in sorted(listed))
    notice = (
        f"{side.path}: calls its value {side.nodata} nodata, so {percent(side.hidden)} of it are unknown and not "
        f"{name}; if they are {name}, say so: {option} {mapped}"
    )
    return [notice]


def _parse(option: str, texts: Sequence[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for part in (p.strip() for text in texts for p in text.split(",") if p.strip()):
        value, equals, wanted = (piece.strip() for piece in part.rpartition("="))
        if not equals or not value or not wanted:
            raise UsageError(f"{option} {part}: expected VALUE=CLASS, such as building=1, or *=0 for all others")
        if out.get(value, wanted) != wanted:
            raise UsageError(f"{option} {part}: {value} is {out[value]} already; expected each value once")
        out[value] = wanted
    return out


def _refuse_mask(side: Side, wanted: Mapping[str, str], option: str, classes: Sequence[str]) -> None:
    """Raises UsageError for a mask of 0 and 255 where the user does not say what 255 means."""
    values = {*side.values, *((side.nodata,) if side.hidden and side.nodata is not None else ())}
    if not wanted and not side.is_named and str(IGNORE) in side.values and values == {"0", str(IGNORE)}:
        raise UsageError(
            f"{side.path}: its ids are 0 and {IGNORE}, which usually means unknown; say what it is here: "
            f"{option} {IGNORE}={classes[-1] if classes else 1} (a class), or {option} {IGNORE}={IGNORE_NAME}"
        )


def _foreground(side: Side) -> list[str]:
    """Names of the side's classes, those that come first last, without background."""
    named = [name for name in side.values.values() if name is not None]
    return [name for name in reversed(named) if name not in side.infos or not side.infos[name].background]


def _find_classes(
    truth: Side, prediction: Side, names: Sequence[str], to_truth: Mapping[str, str], to_prediction: Mapping[str, str]
) -> tuple[_Legend, list[str]]:
    """The classes, and what there is to say about how they were found."""
    known = {**prediction.infos, **truth.infos}
    if names:
        return _legend(dict(enumerate(names)), known), []
    if truth.is_named:
        return _legend(_listed_names(truth, prediction), known), []
    if prediction.is_named and not to_prediction:
        return _of_prediction(truth, prediction, known, to_truth)
    texts = [*(v for v in truth.values if v not in to_truth), *to_truth.values(), *to_prediction.values()]
    texts += [] if to_prediction else prediction.values
    numbers = {1 if text == ALL else int(text) for text in texts if text == ALL or _is_id(text)} - {IGNORE}
    # A mask of one class is one of two: what is not in it is the other.
    listed = {i: str(i) for i in sorted(numbers if len(numbers) > 1 else {0, 1, *numbers})}
    for value, wanted in to_prediction.items():
        # A class that the truth only numbers gets the name of what is compared with it.
        alone = sum(other == wanted for other in to_prediction.values()) == 1
        if _is_id(wanted) and int(wanted) in listed and alone and value != REST and not _is_id(value):
            listed[int(wanted)] = value
    if len(listed) == 2 and 0 in listed:
        listed[0] = "background"
    legend = _legend(listed, known)
    return replace(legend, remedy="; --classes other,building gives them such names"), []


def _listed_names(side: Side, other: Side) -> dict[int, str]:
    """Names of a side's classes by number; polygons get a background beside them."""
    if side.is_vector:
        background = next((info.name for info in other.infos.values() if info.background), "background")
        found = [name or value for value, name in side.values.items() if (name or value) != background]
        return dict(enumerate([background, *found]))
    found_ids = {int(value): name or value for value, name in side.values.items() if int(value) != IGNORE}
    return found_ids if len(found_ids) > 1 else {0: "0", 1: "1"} | found_ids


def _of_prediction(
    truth: Side, prediction: Side, known: Mapping[str, ClassInfo], to_truth: Mapping[str, str]
) -> tuple[_Legend, list[str]]:
    """The truth has no names and the prediction has."""
    legend = _legend(_listed_names(prediction, truth), known)
    foreground = [info.name for info in legend.infos if not info.background]
    if to_truth:  # says what the truth shows
        return legend, []
    if truth.is_vector:
        if len(foreground) != 1:
            raise UsageError(
                f"{truth.path}: says nothing of classes, and {prediction.path} has {legend}; say which of them it "
                f"shows, such as --map {foreground[0]}=1, or which --attribute holds the class"
            )
        return legend, []
    numbers = sorted(int(value) for value in truth.values)
    if {*numbers} <= {0, 1, IGNORE} and len(legend.infos) > 2:
        raise UsageError(
            f"{truth.path}: has ids without names ({', '.join(map(str, numbers))}), and {prediction.path} has "
            f"{legend}; say which of them is 1, such as --map {foreground[0]}=1"
        )
    return legend, [f"{truth.path} has no class names: compared by id"]


def _legend(listed: Mapping[int, str], known: Mapping[str, ClassInfo]) -> _Legend:
    """Classes as the files describe them, else with colours of our own."""
    names = list(listed.values())
    if len(set(names)) < len(names):
        raise UsageError(f"two classes are called the same: {', '.join(names)}")
    if any(name in known and known[name].background for name in names):
        background = -1
    else:
        background = 0 if len(names) == 2 or names[0].casefold() in ("background", "other", "none") else -1
    infos = tuple(
        ClassInfo(
            name=name,
            color=known[name].color if name in known else default_color(i, background=i == background),
            background=known[name].background if name in known and background < 0 else i == background,
        )
        for i, name in enumerate(names)
    )
    return _Legend(infos, tuple(listed))


def _assign(
    side: Side, legend: _Legend, wanted: Mapping[str, str], option: str, *, rest_is_background: bool
) -> tuple[dict[str, int], list[str]]:
    """Position of the class of each value, and the names of those that were left to be background."""
    own_names = {name.casefold(): value for value, name in side.values.items() if name is not None}
    given: dict[str, int] = {}
    rest: int | None = None
    for key, target in wanted.items():
        label = IGNORE if target in (IGNORE_NAME, str(IGNORE)) else legend.find(target)
        if label is None:
            raise UsageError(
                f"{option} {key}={target}: no such class; expected one of {legend}, or {IGNORE_NAME}{legend.remedy}"
            )
        if key == REST:
            rest = label
        elif (value := own_names.get(key.casefold(), key)) in side.values or value == side.nodata:
            given[value] = label
        elif not _is_id(key):
            raise UsageError(f"{option} {key}={target}: {side.path} has no {key}; it has {_listed(side)}")
    left = []
    if side.nodata is not None and rest is not None and _is_class(side.nodata, legend):
        given.setdefault(side.nodata, rest)
    for value, name in side.values.items():
        if value in given or value == side.nodata:
            continue
        named = name is not None and legend.find(name) is not None
        if wanted and not named and (rest is not None or rest_is_background):
            default = rest if rest is not None else legend.background
            if default is None:
                raise UsageError(f"{option}: say what {name or value} is among {legend}, or {REST}=... for all others")
            given[value] = default
            if rest is None and (name is not None or legend.find(value) not in (None, default)):
                left.append(name or value)
            continue
        given[value] = _by_default(side, value, name, legend, option)
    return given, left


def _by_default(side: Side, value: str, name: str | None, legend: _Legend, option: str) -> int:
    if value == ALL:
        return next(i for i, info in enumerate(legend.infos) if not info.background)
    if name is None and value == str(IGNORE):
        return IGNORE
    label = legend.find(name or value)
    if label is None and all(_is_id(info.name) for info in legend.infos):
        label = legend.find(value)  # the names of one side, the numbers of the other
    if label is None:
        raise UsageError(
            f"{side.path}: {name or value} is none of the classes {legend}; say what it counts as, such as "
            f"{option} {name or value}={legend.infos[-1].name}, or {option} '{name or value}={IGNORE_NAME}'"
            f"{legend.remedy}"
        )
    return label


def _is_id(text: str) -> bool:
    return text.isdecimal()


def _listed(side: Side) -> str:
    shown = (
        f"{name} ({value})" if name else value or "polygons without classes" for value, name in side.values.items()
    )
    return ", ".join(shown)
