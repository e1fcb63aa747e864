"""Which class of the prediction is which class of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tileseg.dataset.spec import IGNORE, IGNORE_NAME
from tileseg.errors import UsageError
from tileseg.evaluate.sides import ALL, Side
from tileseg.nn.card import ClassInfo

REST = "*"
"""In a map: all values that it does not name."""

_COLORS = (
    "#d9544d", "#3f7fbf", "#4f9a4d", "#e0a030", "#8a63b0", "#4fb5b0", "#b5651d", "#d77fb0", "#6b6b76", "#9aa63c",
)  # fmt: skip
_BACKGROUND = "#c8b99a"


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

    The classes are those of the truth, if it names them; ``names`` gives or replaces them, by id. Values are matched
    by name where both sides have names, else by id. The maps are texts such as ``building=1`` (value or name of that
    side = name or id of a class, or ``ignore``); ``*=0`` stands for all others that no class is called like. Values of
    the prediction that its map leaves out, and that no class is called like, are background. Raises UsageError where
    something has no counterpart.
    """
    to_truth, to_prediction = _parse("--map-truth", map_truth), _parse("--map", map_prediction)
    classes, notices = _classes(truth, prediction, names, to_truth, to_prediction)
    of_truth, _ = _assign(truth, classes, to_truth, "--map-truth", rest_is_background=False)
    of_prediction, left = _assign(prediction, classes, to_prediction, "--map", rest_is_background=True)
    if left:
        notices.append(f"--map does not name {', '.join(left)}: counted as background")
    unseen = [info.name for i, info in enumerate(classes) if i not in of_prediction.values() and not info.background]
    if unseen:
        notices.append(f"{prediction.path} cannot give {', '.join(unseen)}")
    return Meaning(classes, of_truth, of_prediction, tuple(notices))


def match_classes(classes: Sequence[ClassInfo], predicted: Side, maps: Sequence[str] = ()) -> Meaning:
    """The same where the truth's classes are known: by name, unless ``maps`` says otherwise. Raises UsageError."""
    infos = tuple(classes)
    found, left = _assign(predicted, infos, _parse("--map", maps), "--map", rest_is_background=True)
    notices = [f"--map does not name {', '.join(left)}: counted as background"] if left else []
    unseen = [info.name for i, info in enumerate(infos) if i not in found.values() and not info.background]
    if unseen:
        notices.append(f"the model cannot give {', '.join(unseen)}")
    return Meaning(infos, {str(i): i for i in range(len(infos))}, found, tuple(notices))


def _parse(option: str, texts: Sequence[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for part in (p.strip() for text in texts for p in text.split(",") if p.strip()):
        value, equals, wanted = (piece.strip() for piece in part.rpartition("="))
        if not equals or not value or not wanted:
            raise UsageError(f"{option} {part}: expected VALUE=CLASS, such as building=1, or *=0 for all others")
        out[value] = wanted
    return out


def _classes(
    truth: Side, prediction: Side, names: Sequence[str], to_truth: Mapping[str, str], to_prediction: Mapping[str, str]
) -> tuple[tuple[ClassInfo, ...], list[str]]:
    """The classes, and what there is to say about how they were found."""
    known = {**prediction.infos, **truth.infos}
    if names:
        return _infos(list(names), known), []
    if truth.is_named:
        return _of_named(truth, prediction, known), []
    if prediction.is_named and not to_prediction and not to_truth:
        return _of_prediction(truth, prediction, known)
    ids = [int(v) for v in truth.values if v not in to_truth and _is_id(v) and int(v) != IGNORE]
    ids += [1] if ALL in truth.values and ALL not in to_truth else []
    ids += [int(v) for v in (*to_truth.values(), *to_prediction.values()) if _is_id(v) and int(v) != IGNORE]
    if not to_prediction:
        ids += [int(v) for v in prediction.values if _is_id(v) and int(v) != IGNORE]
        ids += [1] if ALL in prediction.values else []
    if not to_truth and sorted(v for v in truth.values if v != "0") == [str(IGNORE)] and "0" in truth.values:
        raise UsageError(
            f"{truth.path}: its ids are 0 and {IGNORE}, which usually means unknown; say what it is here: "
            f"--map-truth {IGNORE}=1 (a class), or --map-truth {IGNORE}={IGNORE_NAME}"
        )
    listed = [str(i) for i in range(max(2, max(ids, default=0) + 1))]
    for value, wanted in to_prediction.items():
        # A class that the truth only numbers gets the name of what is compared with it.
        alone = sum(other == wanted for other in to_prediction.values()) == 1
        if _is_id(wanted) and int(wanted) != IGNORE and alone and value != REST and not _is_id(value):
            listed[int(wanted)] = value
    if len(listed) == 2:
        listed[0] = "background"
    return _infos(listed, known), []


def _of_named(truth: Side, prediction: Side, known: Mapping[str, ClassInfo]) -> tuple[ClassInfo, ...]:
    if truth.is_vector:
        background = next((i.name for i in prediction.infos.values() if i.background), "background")
        found = [name or value for value, name in truth.values.items() if (name or value) != background]
        return _infos([background, *found], known)
    ids = {int(value): name for value, name in truth.values.items() if int(value) != IGNORE}
    return _infos([ids.get(i) or str(i) for i in range(max(2, max(ids) + 1))], known)


def _of_prediction(
    truth: Side, prediction: Side, known: Mapping[str, ClassInfo]
) -> tuple[tuple[ClassInfo, ...], list[str]]:
    """The truth has no names and the prediction has."""
    if prediction.is_vector:
        listed = ["background", *(name or value for value, name in prediction.values.items() if name != "background")]
    else:
        ids = {int(value): name for value, name in prediction.values.items() if int(value) != IGNORE}
        listed = [ids.get(i) or str(i) for i in range(max(2, max(ids) + 1))]
    infos = _infos(listed, known)
    foreground = [info.name for info in infos if not info.background]
    first = foreground[0] if foreground else listed[-1]
    if truth.is_vector and len(foreground) != 1:
        raise UsageError(
            f"{truth.path}: says nothing of classes, and {prediction.path} has {', '.join(listed)}; "
            f"say which of them it shows, such as --map {first}=1, or which --attribute holds the class"
        )
    if truth.is_vector:
        return infos, []
    numbers = {int(value) for value in truth.values}
    if numbers <= {0, 1, IGNORE} and len(infos) > 2:
        raise UsageError(
            f"{truth.path}: has ids without names ({', '.join(map(str, sorted(numbers)))}), and {prediction.path} has "
            f"{', '.join(listed)}; say which of them is 1, such as --map {first}=1"
        )
    return infos, [f"{truth.path} has no class names: compared by id"]


def _infos(names: Sequence[str], known: Mapping[str, ClassInfo]) -> tuple[ClassInfo, ...]:
    """Classes by id: as the files describe them, else with colours of our own."""
    if len(set(names)) < len(names):
        raise UsageError(f"two classes are called the same: {', '.join(names)}")
    if any(name in known and known[name].background for name in names):
        background = -1
    else:
        background = 0 if len(names) == 2 or names[0].casefold() in ("background", "other", "none") else -1
    return tuple(
        ClassInfo(
            name=name,
            color=known[name].color if name in known else _BACKGROUND if i == background else _COLORS[i % len(_COLORS)],
            background=known[name].background if name in known and background < 0 else i == background,
        )
        for i, name in enumerate(names)
    )


def _assign(
    side: Side, classes: Sequence[ClassInfo], wanted: Mapping[str, str], option: str, *, rest_is_background: bool
) -> tuple[dict[str, int], list[str]]:
    """Class id of each value, and the names of those that were left to be background."""
    by_name = {info.name.casefold(): i for i, info in enumerate(classes)}
    background = next((i for i, info in enumerate(classes) if info.background), None)
    own_names = {name.casefold(): value for value, name in side.values.items() if name is not None}
    given: dict[str, int] = {}
    rest: int | None = None
    for key, target in wanted.items():
        label = _class_id(f"{option} {key}={target}", target, classes, by_name)
        if key == REST:
            rest = label
        elif (value := own_names.get(key.casefold(), key)) in side.values:
            given[value] = label
        elif not _is_id(key):
            raise UsageError(f"{option} {key}={target}: {side.path} has no {key}; it has {_listed(side)}")
    left = []
    for value, name in side.values.items():
        shown = name or value
        if value in given:
            continue
        named = name is not None and name.casefold() in by_name
        if wanted and not named and (rest is not None or rest_is_background):
            default = rest if rest is not None else background
            if default is None:
                raise UsageError(f"{option}: say what {shown} is among {_names(classes)}, or {REST}=... for all others")
            given[value] = default
            if rest is None and name is not None:
                left.append(name)
            continue
        given[value] = _by_default(side, value, name, classes, by_name, option)
    return given, left


def _by_default(
    side: Side,
    value: str,
    name: str | None,
    classes: Sequence[ClassInfo],
    by_name: Mapping[str, int],
    option: str,
) -> int:
    if name is not None and name.casefold() in by_name:
        return by_name[name.casefold()]
    if value == ALL:
        return next(i for i, info in enumerate(classes) if not info.background)
    only_numbers = name is None or all(info.name == str(i) for i, info in enumerate(classes))
    if only_numbers and _is_id(value) and (int(value) < len(classes) or int(value) == IGNORE):
        return int(value)
    raise UsageError(
        f"{side.path}: {name or value} is none of the classes {_names(classes)}; say what it counts as, such as "
        f"{option} {name or value}={classes[-1].name}, or {option} '{name or value}={IGNORE_NAME}'"
    )


def _class_id(text: str, target: str, classes: Sequence[ClassInfo], by_name: Mapping[str, int]) -> int:
    if target == IGNORE_NAME:
        return IGNORE
    if target.casefold() in by_name:
        return by_name[target.casefold()]
    if _is_id(target) and (int(target) < len(classes) or int(target) == IGNORE):
        return int(target)
    raise UsageError(f"{text}: no such class; expected one of {_names(classes)}, or {IGNORE_NAME}")


def _is_id(text: str) -> bool:
    return text.isdecimal()


def _names(classes: Sequence[ClassInfo]) -> str:
    return ", ".join(f"{info.name} ({i})" if info.name != str(i) else info.name for i, info in enumerate(classes))


def _listed(side: Side) -> str:
    shown = (
        f"{name} ({value})" if name else value or "polygons without classes" for value, name in side.values.items()
    )
    return ", ".join(shown)
