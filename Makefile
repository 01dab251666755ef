# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo-output
JOBS ?= auto
RUNS ?= 300
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types tests faults clean

demo: $(INSTALLED)
	$(BIN)/vega3d-extract demo --out $(OUT)

test: lint types tests

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

tests: $(INSTALLED)
	$(BIN)/pytest -q -n $(JOBS) --dist loadgroup --no-loadscope-reorder --durations=15

faults: $(INSTALLED)
	$(BIN)/python tests/faults/seeded.py $(RUNS)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 2.4 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache
