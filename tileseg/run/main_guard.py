"""Scripts without ``if __name__ == "__main__":``, which worker processes would run again from their first line on."""

from __future__ import annotations

import ast
import multiprocessing
import sys
from pathlib import Path
from types import FrameType

from tileseg.errors import UsageError

_REMEDY = (
    'put what calls tileseg below `if __name__ == "__main__":`, because worker processes run the script again from its '
    "first line on; or give workers=0, to compute in this process"
)


def check_main_guard() -> None:
    """Raise UsageError where worker processes, which are spawned, would run the caller's script and call tileseg again.

    A script counts as guarded where any ``if`` stands around the call. In such a worker process itself, which Python is
    starting, this ends the process in one line.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(f"tileseg: {getattr(sys.modules.get('__mp_main__'), '__file__', 'a script')}: {_REMEDY}")
    call = _call_in_script()
    if call is not None and not call[0].exists():
        raise UsageError(
            f"{call[0].name}: worker processes read the script again, and there is no such file; write it into one, or "
            "give workers=0, to compute in this process"
        )
    if call is not None and not _is_guarded(*call):
        raise UsageError(f"{call[0].name}, line {call[1]}: {_REMEDY}")


def worker_remedy() -> str:
    """What helps where worker processes did not start: a guard that is none is the usual reason in a script."""
    return "--workers 0 needs none" if _call_in_script() is None else _REMEDY


def _call_in_script() -> tuple[Path, int] | None:
    """The script that this process runs and the line in which it is, where workers would run it too."""
    main = sys.modules.get("__main__")
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if main is None or file is None or (spec is not None and spec.name.endswith("__main__")):
        return None  # a notebook, a prompt, or `python -m package`: multiprocessing runs none of them again
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the one way to see who calls
    while frame is not None:
        if frame.f_globals is main.__dict__ and frame.f_code.co_name == "<module>":
            return Path(file), frame.f_lineno
        frame = frame.f_back
    return None


def _is_guarded(script: Path, line: int) -> bool:
    """Whether an ``if`` stands around a line; True where the script cannot be read."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(
        isinstance(node, ast.If) and node.lineno <= line <= (node.end_lineno or node.lineno) for node in ast.walk(tree)
    )
