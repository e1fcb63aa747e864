"""The code stays readable: small modules, short signatures, and a floor of values that everything stands on."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import tileseg

ROOT = Path(tileseg.__file__).parent
LONGEST, MEDIAN, PARAMETERS = 500, 150, 8
FLOOR = {
    "__init__", "__main__", "ahead", "blend", "card", "choices", "compiled", "compiled_cache", "errors", "formats",
    "globe", "grid", "hounsfield", "imports", "labels", "mosaic", "ome", "overlay", "plan", "problems", "reading",
    "spec", "tiling", "tta", "webmap", "window",
}  # fmt: skip
"""Modules beside the rooms: values, arithmetic, registries."""
KERNELS = ("compiled", "compiled_with_fma", "inlined")
"""What :mod:`tileseg.compiled` makes machine code of: Numba knows arrays and numbers, and no values of ours."""


def modules() -> dict[str, str]:
    """Path below the package -> text, of all modules."""
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


def lines(text: str) -> int:
    return len(text.splitlines())


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and number of parameters (self and cls aside) of every function but kernels that Numba compiles."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(ast.unparse(decorator) in KERNELS for decorator in node.decorator_list):
                continue
            given = node.args
            names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            more = (given.vararg is not None) + (given.kwarg is not None)
            yield node.name, len([name for name in names if name not in ("self", "cls")]) + more


def test_counting_parameters() -> None:
    text = "@compiled\ndef kernel(a, b, c): ...\nclass A:\n  async def f(self, a, /, b, *c, d=1, **e): ..."
    assert list(functions(text)) == [("f", 5)]


def test_no_module_is_long() -> None:
    sizes = {name: lines(text) for name, text in modules().items()}
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


def test_half_of_the_modules_are_short() -> None:
    sizes = [lines(text) for name, text in modules().items() if not name.endswith("__init__.py")]
    assert statistics.median(sizes) <= MEDIAN


def test_no_function_takes_many_parameters() -> None:
    found = {f"{name}:{function}": count for name, text in modules().items() for function, count in functions(text)}
    assert {where: count for where, count in found.items() if count > PARAMETERS} == {}


def test_what_lies_beside_the_rooms_is_named_here() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} <= FLOOR


@pytest.mark.parametrize("room", sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()))
def test_every_room_says_what_it_is_for(room: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
