PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock'

.PHONY: demo table test test-slow check format lock clean

demo: $(VENV)/.installed  ## train the demo recipe on the embedded world
	$(BIN)/copd train demo --out runs/demo --resume

table: demo  ## the README's table: CoPD, experts and mixed RLVR at equal rollouts
	$(BIN)/copd train demo method=expert --out runs/expert --resume
	$(BIN)/copd train demo method=mixed --out runs/mixed --resume
	$(BIN)/python studies/demo_table.py

test: $(VENV)/.tools  ## the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/.tools  ## the tests that take longer, and the mutations
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations=5

check: $(VENV)/.tools  ## formatting, lint, types
	$(BIN)/ruff format --check copd tests studies benchmarks
	$(BIN)/ruff check copd tests studies benchmarks
	$(BIN)/mypy

format: $(VENV)/.tools  ## format the code
	$(BIN)/ruff format copd tests studies benchmarks
	$(BIN)/ruff check --fix copd tests studies benchmarks

lock: $(VENV)/.tools  ## renew the locked versions from pyproject.toml, keeping those that still fit
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --extra dev pyproject.toml -c requirements.lock -o requirements-dev.lock

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("copd needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

$(VENV)/.tools: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	touch $@

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs
