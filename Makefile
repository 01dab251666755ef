# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo-output
PAPER ?= desk-paper
JOBS ?= $(shell expr $$(nproc) + 1)
RUNS ?= 300
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo paper test lint types tests faults clean

demo: $(INSTALLED)
	$(BIN)/vega3d-extract demo --out $(OUT)

# The paper's questions on the models of the package; the same command goes on.
paper: $(INSTALLED)
	$(BIN)/vega3d-benchmark desk --out $(PAPER)

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
	rm -rf $(VENV) $(OUT) $(PAPER) .mypy_cache .ruff_cache .pytest_cache
