# Everything below works from a fresh clone with python3.11 or newer and make; no other tool is assumed.
#
#   make setup         .venv with the project and its test tools
#   make demo          .venv with the project, then fit the photos in experiments/demo_data and write out/demo/index.html
#   make test          setup, then the tests of every kind that take seconds: minutes on two cores
#   make test-all      setup, then every test that needs no torch: the slow ones as well
#   make test-parity   .venv-parity with torch (CPU), then the live comparisons with the `anny` and `smplx` packages
#   make lint          ruff check, ruff format --check, pyright
#   make docs          tutorials, pages and the reference of every public name as a site, in site/
#   make clean         remove outputs and caches;  make distclean: the environments as well

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
PARITY_VENV := .venv-parity
DEMO_OUTPUT ?= out/demo
TEST_WORKERS ?= 2
PYTEST_ARGS ?=
# Files in the order of `tests/conftest.py`, each on one worker, as its tests share fixtures and compiled programs.
SPREAD = --numprocesses=$(TEST_WORKERS) --dist=loadfile --no-loadscope-reorder
PARITY_TORCH := torch==2.13.0

DEMO_DATA := experiments/demo_data
PAGES := build/pages
DOCUMENTS := README.md WORKSPACE.md CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE NOTICE docs experiments/results $(DEMO_DATA)/CREDITS.md
BIN := $(VENV)/bin
PARITY_BIN := $(PARITY_VENV)/bin
STAMP := $(VENV)/.installed
RUN_STAMP := $(VENV)/.installed-to-run
PARITY_STAMP := $(PARITY_VENV)/.installed

.PHONY: help setup demo test test-all test-parity lint docs clean distclean

help:
	@sed -n '3,11s/^# *//p' Makefile

setup: $(STAMP)

# A stamp is newer than pyproject.toml exactly when the environment holds what pyproject.toml asks for: to run, and to test.
$(RUN_STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: python 3.11 or newer is needed (set PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-input --editable .
	@touch $@

$(STAMP): $(RUN_STAMP)
	$(BIN)/python -m pip install --quiet --no-input --editable ".[test]"
	@touch $@

$(PARITY_STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: python 3.11 or newer is needed (set PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_BIN)/python -m pip install --quiet --no-input $(PARITY_TORCH)
	$(PARITY_BIN)/python -m pip install --quiet --no-input --editable ".[test,parity]"
	@touch $@

demo: $(RUN_STAMP)
	$(BIN)/python -m experiments.fit --input=$(DEMO_DATA)/annotations.json --images=$(DEMO_DATA)/photos \
		--output=$(DEMO_OUTPUT)/from_clicked_keypoints --overwrite
	$(BIN)/python -m experiments.fit --input=$(DEMO_DATA)/photos --output=$(DEMO_OUTPUT) --pictures --overwrite \
		--compare=$(DEMO_OUTPUT)/from_clicked_keypoints --credits=$(DEMO_DATA)/annotations.json
	@echo "The demo is in $(CURDIR)/$(DEMO_OUTPUT): open $(CURDIR)/$(DEMO_OUTPUT)/index.html"

test: setup
	$(BIN)/python -m pytest -m "not slow" --compile-quickly $(SPREAD) $(PYTEST_ARGS)

test-all: setup
	$(BIN)/python -m pytest $(SPREAD) $(PYTEST_ARGS)

test-parity: $(PARITY_STAMP)
	$(PARITY_BIN)/python -m pytest -m parity $(PYTEST_ARGS)

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright

docs: setup
	$(BIN)/python -m pip install --quiet --no-input --editable ".[docs]"
	rm -rf $(PAGES) site
	mkdir -p $(PAGES)
	tar -cf - $(DOCUMENTS) | tar -xf - -C $(PAGES)
	JAX_PLATFORMS=cpu $(BIN)/python -W ignore -m pdoc --docformat google --output-directory $(PAGES)/reference \
		annyfit_jax body_models experts
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "The site is in $(CURDIR)/site: open $(CURDIR)/site/index.html"

clean:
	rm -rf out site build dist .cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(PARITY_VENV)
