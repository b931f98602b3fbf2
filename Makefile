# metavae: `make demo` does the main job, `make test` runs the whole suite. Each sets itself up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The exact versions that the project is tested with, also of what builds it.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Threads that wait do not spin: two programs on two cores would slow each other tenfold.
export OMP_WAIT_POLICY := passive

.PHONY: help demo test test-fast check fuzz soak format lock clean

help:  ## Show what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.all  ## The main job: serve, embed with curl, sites never seen, picture, probe, stop.
	@BIN=$(BIN) ./demo.sh

test: $(VENV)/.dev check  ## Lint, type-check and run every test, a real TorchServe included.
	$(BIN)/pytest

test-fast: $(VENV)/.dev  ## The tests that start no server and train nothing.
	$(BIN)/pytest -q -m "not server and not training"

check: $(VENV)/.dev  ## Lint, formatting, types, and the arrows between the packages.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

fuzz: $(VENV)/.dev  ## Fuzz the wire with atheris, for FUZZ_SECONDS (300).
	$(BIN)/pip install --quiet 'atheris>=2.3'
	$(BIN)/python tests/fuzz_wire.py -max_total_time=$(or $(FUZZ_SECONDS),300)

soak: $(VENV)/.dev  ## Load a server for SOAK_MINUTES (5), and fail if it grows.
	$(BIN)/python benchmarks/soak.py --minutes $(or $(SOAK_MINUTES),5)

format: $(VENV)/.dev  ## Format and mend what a tool can mend.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock:  ## Take the newest versions that pyproject.toml allows into constraints.txt.
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT= build/lock/bin/pip install --quiet --upgrade -e '.[all,dev]'
	echo '# Exact versions that `make demo` and `make test` install; `make lock` renews them.' \
	  > build/constraints.txt
	build/lock/bin/pip freeze --exclude-editable >> build/constraints.txt
	mv build/constraints.txt constraints.txt && rm -rf build/lock

clean:  ## Remove the environment and everything that was made.
	rm -rf $(VENV) build demo-output .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "metavae needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	       "Name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.all
	$(BIN)/pip install --quiet -e '.[all,dev]'
	@touch $@
