# Every target works on a fresh clone: the environment is created and filled on first use.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)  ## fit real datasets with the bundled weights, print tables, draw what the networks believe
	$(BIN)/python benchmarks/demo.py

test: $(STAMP)  ## the whole suite, docstring and README examples included
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)  ## the tables of the README; needs ../shared/data
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/classification.py
	$(BIN)/python benchmarks/regression.py
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv build dist *.egg-info
