# Everything happens in .venv, made here from the pinned versions of constraints.txt.
# Needed on the machine: make, Python 3.11 to 3.13 with its venv module, and a package index that pip can reach.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

# Where an image sets it, every process would compile again what it imports: four seconds of a run, nine of TensorFlow.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
BIN := $(VENV)/bin
# Not compiled ahead: of some ten thousand modules a few hundred are ever imported, and those are compiled then.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
DEMO := demo/settlement.tileseg
PYTEST_ARGS ?=
# Tests of one file stay together: they share models and runs. 0: one after the other in one process, as --pdb needs it.
# One more than two processors, because a part of the tests waits for processes that they started.
TEST_PROCESSES ?= 3
# A process that crashes, or a test that stands still, ends the whole with the test's name: pytest-xdist waits for ever for
# the tests of a file whose process it replaced.
# Files in their own order: those with few tests hold the longest ones, and would come last.
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	-o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
BENCH_ARGS ?=

# The first interpreter that fits. TensorFlow's wheels, not tileseg, set the upper end.
FITS := import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	"$$python" -c '$(FITS)' >/dev/null 2>&1 && { command -v "$$python"; break; }; done)

# Numba keeps what it compiles: done once here, the first run does not wait for it, nor does each process of the tests.
COMPILE := from tileseg.cluster import warm; from tileseg.run import vectorize; warm.warm_up(); vectorize.warm_up(regular=True)

.PHONY: help demo test faults coverage lint format bench clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp $(VENV)/compiled.stamp ## Segment a sample raster with the embedded model; says where the outputs are.
	$(BIN)/tileseg run sample_rasters/settlement.tif --out $(DEMO) --overwrite
	@printf '%s\n' \
	  '' \
	  'The outputs are in $(DEMO)/' \
	  '  quicklook.png      look at this first: scene, labels, overlay' \
	  '  polygons.geojson   drag it into QGIS (over sample_rasters/settlement.tif) or onto geojson.io' \
	  '  labels.tif         the classes as a Cloud-Optimized GeoTIFF with its colours' \
	  '  mosaic.zarr/       logits and labels, for xarray (pip install "tileseg[xarray]") or zarr' \
	  '  summary.json       what was run, with which versions, and how long each stage took' \
	  '' \
	  'Look at all of it in the browser:  $(BIN)/tileseg view $(DEMO)' \
	  '' \
	  'Now with a raster of your own:  $(BIN)/tileseg run SCENE.tif' \
	  'All options:                    $(BIN)/tileseg run --help'

test: $(VENV)/test.stamp $(VENV)/compiled.stamp ## Run the tests (PYTEST_ARGS="-k polygons" for some of them).
	$(PYTEST) $(PYTEST_ARGS)

faults: $(VENV)/test.stamp ## Kill, stop and starve processes on purpose; prints the rows of benchmarks/RELIABILITY.md.
	TILESEG_FAULT_TIMES=$${TILESEG_FAULT_TIMES:-3} $(BIN)/python -m pytest tests/faults -m 'faults or not faults' $(PYTEST_ARGS)

coverage: $(VENV)/test.stamp ## Run the tests and report the lines that none of them reaches.
	$(PYTEST) --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp ## Check style, types and the layers of the imports.
	@status=0; \
	for check in "ruff check" "ruff format --check" "mypy" "lint-imports"; do \
	  echo "$$check"; $(BIN)/$$check || status=1; \
	done; exit $$status

format: $(VENV)/dev.stamp ## Format the code and apply the fixes that are safe.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/test.stamp ## Measure what benchmarks/RESULTS.md states (BENCH_ARGS to choose).
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

clean: ## Remove the environment, the demo's outputs and all caches.
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what it was installed from, so a second call installs nothing.
$(VENV)/created.stamp:
	@if [ -z "$(PYTHON)" ]; then \
	  echo 'tileseg needs Python 3.11, 3.12 or 3.13, and none was found (python3 is: '"$$(python3 --version 2>&1)"').' >&2; \
	  echo 'Install one, or name it: make demo PYTHON=/path/to/python3.11' >&2; exit 1; fi
	@"$(PYTHON)" -c '$(FITS)' || { \
	  echo '$(PYTHON) is '"$$("$(PYTHON)" --version 2>&1)"'; tileseg needs Python 3.11, 3.12 or 3.13.' >&2; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON)'
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'The environment could not be made. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@touch $@

$(VENV)/run.stamp: $(VENV)/created.stamp pyproject.toml constraints.txt
	@echo 'Installing tileseg and what it needs into $(VENV) (TensorFlow is large: a few minutes)'
	@$(PIP_INSTALL) -e '.[view]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/created.stamp pyproject.toml constraints.txt
	@echo 'Installing tileseg and what its tests need into $(VENV) (TensorFlow is large: a few minutes)'
	@$(PIP_INSTALL) -e '.[test]'
	@touch $(VENV)/run.stamp $@

$(VENV)/dev.stamp: $(VENV)/created.stamp pyproject.toml constraints.txt
	@echo 'Installing tileseg and what its development needs into $(VENV) (TensorFlow is large: a few minutes)'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/run.stamp $(VENV)/test.stamp $@

# After one of the installations, which come before it in every list.
$(VENV)/compiled.stamp: pyproject.toml constraints.txt
	@echo 'Compiling what makes polygons, once (a minute)'
	@$(BIN)/python -c '$(COMPILE)'
	@touch $@
