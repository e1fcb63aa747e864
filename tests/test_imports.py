"""Modules that are not wanted are not found, for a while, in processes of our own."""

from __future__ import annotations

import importlib
import sys

import pytest

from tileseg import imports
from tileseg.imports import own_process, spared


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_own", [])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)


def test_a_module_is_spared_and_there_again() -> None:
    own_process()
    with spared("colorsys", "no.such.module"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv
    with spared("colorsys"):
        importlib.import_module("colorsys")  # it is there already


def test_it_is_there_again_after_an_error() -> None:
    own_process()
    with pytest.raises(ZeroDivisionError), spared("colorsys"):
        raise ZeroDivisionError
    assert importlib.import_module("colorsys")


def test_a_process_of_others_loses_nothing_unless_it_is_meant_to() -> None:
    with spared("colorsys"):
        importlib.import_module("colorsys")
    del sys.modules["colorsys"]
    with spared("colorsys", always=True), pytest.raises(ImportError):
        importlib.import_module("colorsys")
