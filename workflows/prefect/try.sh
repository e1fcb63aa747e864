#!/bin/bash
# Tries nightly.py for real: its flow does an archive, meets a useless scene, and tries again what may pass.
#
#   workflows/prefect/try.sh            # some minutes, most of them for the installation
#
# Prefect and the versions that tileseg is developed with exclude each other, so it gets an environment of its own,
# .venv-prefect in the repository (VENV=... for another place). Needs Python (PYTHON=... for another one than python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

VENV="${VENV:-.venv-prefect}"
[[ -x "$VENV/bin/python" ]] || "${PYTHON:-python3}" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[test]' prefect
exec "$VENV/bin/python" -m pytest tests/workflows/test_prefect.py "$@"
