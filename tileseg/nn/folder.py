"""Model folders: where they lie, their card and the files that it was made for. Needs no Keras."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import JsonValue, ValidationError

from tileseg.card import Form, ModelCard
from tileseg.errors import InputError, UsageError, did_you_mean, first_line
from tileseg.problems import first_problem
from tileseg.storage.digest import file_sha256
from tileseg.storage.place import similar_name
from tileseg.storage.store import write_atomic

ARCHIVE = "model.keras"

EMBEDDED = "embedded"
"""Name of the model that comes with tileseg."""

_MODELS = Path(__file__).resolve().parent.parent / "models"


def resolve_model(name: str | Path) -> Path:
    """The folder of a model: a path, or ``embedded`` (the one that comes with tileseg), also by the name in its card.

    Raises:
        InputError: If it is not a model folder; the message says what it is and what to do.
    """
    if str(name) == EMBEDDED:
        return _MODELS / EMBEDDED
    path = Path(name)
    if (path / "card.json").is_file():
        return path
    packaged = packaged_models()
    if str(name) in packaged:
        return packaged[str(name)]
    kinds = {".keras": "a Keras file", ".onnx": "an ONNX file", ".tflite": "a LiteRT file"}
    if path.suffix in kinds and path.is_file():
        kind = kinds[path.suffix]
        raise InputError(
            f"{path}: {kind} without a card; pack it first: tileseg model pack {path} FOLDER ...; or say with --fact "
            "what the card would: --fact classes=NAME[:#RRGGBB],..."
        )
    if path.suffix in (".h5", ".hdf5"):
        raise InputError(
            f"{path}: .h5 models can run code when opened and are refused; save it as .keras with Keras 3 and pack "
            f"that: tileseg model pack {path.with_suffix('.keras')} FOLDER ..."
        )
    if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise InputError(
            f"{path}: pickles can run code when opened and are refused; export the network to ONNX "
            "(torch.onnx.export) and pack that: tileseg model pack MODEL.onnx FOLDER ..."
        )
    if (path / "saved_model.pb").is_file():
        raise InputError(
            f"{path}: a SavedModel cannot be checked and is refused; save it as .keras with Keras 3, or convert it to "
            "ONNX, and pack that: tileseg model pack MODEL.keras FOLDER ..."
        )
    if path.is_dir():
        raise InputError(f"{path}: not a model: no card.json in it; expected a folder with card.json and {ARCHIVE}")
    if path.is_file():
        raise InputError(
            f"{path}: not a model folder; expected {EMBEDDED!r} or a folder with card.json and {ARCHIVE}, model.onnx "
            "or model.tflite, which `tileseg model pack` makes from a .keras, .onnx or .tflite file; save or export "
            "the network as one first"
        )
    meant = did_you_mean(str(name), [EMBEDDED, *packaged]) or similar_name(path)
    raise InputError(f"{path}: no such model{meant}; expected {EMBEDDED!r} or a folder with card.json and {ARCHIVE}")


def packaged_models() -> dict[str, Path]:
    """The models that come with tileseg, by the names in their cards."""
    return {load_card(card.parent).name: card.parent for card in sorted(_MODELS.glob("*/card.json"))}


def load_card(folder: Path) -> ModelCard:
    """Read ``card.json`` of a model folder, of this format or the one before. Raises InputError in one line."""
    path = folder / "card.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder}: not a model: {error.strerror or error} (card.json); expected a folder with card.json and "
            "model.keras or model.onnx; `tileseg model pack` makes one from a .keras or .onnx file"
        ) from error
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not JSON: {first_line(error)}; expected the card of a model") from error
    if isinstance(values, dict) and values.get("format") == 1:
        values = _of_format_1(values, folder)
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error, ModelCard)}") from error


def _of_format_1(values: dict[str, JsonValue], folder: Path) -> dict[str, JsonValue]:
    """A card that knew one file, ``model.keras`` or the only one, and not its name."""
    found = sorted(path.name for path in folder.glob("model.*"))
    file = found[0] if len(found) == 1 else ARCHIVE
    rest = {name: value for name, value in values.items() if name != "sha256"}
    return rest | {"format": 2, "forms": [{"file": file, "sha256": values.get("sha256")}]}


def check_archive(card: ModelCard, folder: Path) -> Path:
    """The file of the card's first form, if it is the one that the card was made for. Raises InputError in one line."""
    form = card.forms[0]
    archive = folder / form.file
    if not archive.is_file():
        raise InputError(f"{folder}: no {form.file} beside card.json; expected the file that the card was made for")
    if (found := file_sha256(archive)) != form.sha256:
        raise InputError(
            f"{archive}: not the file that the card was made for (SHA-256 {found[:12]}..., the card says "
            f"{form.sha256[:12]}...); pack the model again"
        )
    return archive


def add_form(folder: Path, partial: Path, form: Form) -> ModelCard:
    """Take a finished file into a model folder as another form of its network; one of the same name is replaced.

    ``partial`` is moved. Raises InputError where there is no card, UsageError where the form is the network itself.
    """
    card = load_card(folder)
    if form.file == card.forms[0].file:
        raise UsageError(f"{folder / form.file}: is the network itself; another form needs another name")
    partial.replace(folder / form.file)
    others = tuple(each for each in card.forms if each.file != form.file)
    card = card.model_copy(update={"forms": (*others, form)})
    save_card(card, folder)
    return card


def save_card(card: ModelCard, folder: Path) -> None:
    """Write ``card.json`` into a model folder, whole or not at all."""
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_atomic(folder / "card.json", text + "\n")
