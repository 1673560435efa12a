# Every target makes the virtual environment it needs; nothing has to be installed before.
PYTHON ?= python3
VENV ?= .venv

bin := $(VENV)/bin
installed := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all coverage fuzz matrix check docs dist format bench gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=python3.12 chooses the interpreter ($(PYTHON)), VENV=... the environment ($(VENV))."

demo: $(installed)  ## train a small detector, evaluate it and draw what it finds, in demo/
	$(bin)/python tools/demo.py

test: $(installed)  ## run the fast tests
	$(bin)/python -m pytest -m "not slow" -n auto --maxprocesses 4

test-all: $(installed)  ## run every test
	$(bin)/python -m pytest -n auto --maxprocesses 4

coverage: $(installed)  ## run the fast tests and list the lines that none of them reached
	$(bin)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --cov

fuzz: $(installed)  ## feed damaged files and odd networks to everything, for ten minutes or so
	PYTHONPATH=tests $(bin)/python tests/fuzz/campaign.py
	HYPOTHESIS_PROFILE=fuzz $(bin)/python -m pytest tests/fuzz/test_any_network.py

matrix: $(installed)  ## test the oldest and newest torch on every Python; MATRIX="--rows plain-newest"
	$(bin)/python tools/support_matrix.py $(MATRIX)

check: $(installed)  ## check format, lint and types
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy

docs: $(installed)  ## build the site, in build/site; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet
	@echo "the site is build/site, its first page build/site/index.html"

dist: $(installed)  ## build the sdist and the wheel, in dist/, and check both
	rm -rf dist
	$(bin)/python -m build
	$(bin)/twine check --strict dist/*
	$(bin)/check-wheel-contents dist/*.whl

format: $(installed)  ## format and fix what can be fixed
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

bench: $(installed)  ## measure time and memory beside peers; BENCH="--workloads all" and other options
	$(bin)/python tools/benchmark.py $(BENCH)

gpu: $(installed)  ## test and time the GPU kernels on one GPU, in under eight minutes; GPU=--dry-run
	$(bin)/python tools/gpu.py $(GPU)

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist demo .coverage* fuzz-findings *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bit_backbone tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(installed): setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	    echo "bit-backbone needs Python 3.11 or newer, and there is no $(PYTHON)." >&2; \
	    echo "Install one, or name it: make test PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
	    "bit-backbone needs Python 3.11 or newer; $(PYTHON) is %d.%d.\n" % v[:2] + \
	    "Name a newer one: make test PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $@
