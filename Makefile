# Two commands do all the set-up: `make demo` runs the main job on the bundled demo, `make test` passes the tests.
# What takes long is marked: `make test-slow` runs that, `make test-all` both.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUNS := $(VENV)/.runs

.PHONY: demo test test-slow test-all lint format clean

demo: $(RUNS)
	$(BIN)/prunesearch run

test: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist worksteal -m 'not slow'

# of the files that have any: collecting all takes half a minute
test-slow: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist worksteal -m slow $$(grep -rl 'mark.slow' tests --include='test_*.py')

test-all: test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the demo needs the package alone
$(RUNS): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prunesearch needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(INSTALLED): $(RUNS)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
