# Every target works on a fresh clone: the environment is created and filled on first use.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint bench bench-quick docs dist clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)  ## the five blocks of the README on real data; pictures in demo-output
	$(BIN)/python benchmarks/demo.py

test: $(STAMP)  ## the whole suite on all cores: examples of docstrings and documents, and notebooks, included
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)  ## every benchmark, into benchmarks/results, then benchmarks/RESULTS.md; what is there is kept; a day or more
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/run_all.py

bench-quick: $(STAMP)  ## a small part of most benchmarks, in minutes; benchmarks/results-quick/RESULTS.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/run_all.py --quick

docs: $(STAMP)  ## the site, docs/_build/html/index.html; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build -W --keep-going -n -q docs docs/_build/html

dist: $(STAMP)  ## wheel and sdist in dist/, checked, installed into a clean environment and tested there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python benchmarks/release_check.py

clean:
	rm -rf .venv build dist *.egg-info docs/_build docs/tutorials docs/reference/generated
