# What is needed: Python 3.11 or newer, make. Everything else is set up here, in .venv and .venv-test.
#
#     make serve      an app on http://127.0.0.1:8000, four workers
#     make test       lint, format check, types, all tests
#     make help       the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do command -v $$p && break; done)
VENV := .venv
TEST_VENV := .venv-test
BIN := $(TEST_VENV)/bin
SOURCES := $(shell find trapeze backends/trapeze_backends bench/trapeze_bench -type f -not -name '*.pyc' 2>/dev/null)
ARGS ?=

.PHONY: help
help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1	/' | expand -t 18

# -- run it ---------------------------------------------------------------------------------------------------------

# Installed anew when the packages or their metadata have changed.
$(VENV)/.installed: pyproject.toml README.md $(SOURCES)
	@scripts/venv.sh "$(PYTHON)" $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check .
	@touch $@

.PHONY: serve
serve: $(VENV)/.installed ## serve examples/hello.py with four workers
	$(VENV)/bin/trapeze serve examples.hello:wsgi --workers 4 $(ARGS)

# -- test it --------------------------------------------------------------------------------------------------------

# Editable: what is tested is this tree. The stamp is as old as the last change of the dependencies.
$(TEST_VENV)/.installed: pyproject.toml scripts/venv.sh scripts/bjoern.sh | packages
	@scripts/venv.sh "$(PYTHON)" $(TEST_VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@scripts/bjoern.sh $(BIN)/python
	@touch $@

# nginx, redis, wrk, libev, a browser from the system; looked at each time, since they can go away.
.PHONY: packages
packages:
	@scripts/test-packages.sh

.PHONY: develop
develop: $(TEST_VENV)/.installed ## only set up the environment of the tests

.PHONY: test
test: develop lint types ## everything: lint, format check, types, tests
	@scripts/tests.sh $(BIN)/python $(ARGS)

.PHONY: pytest
pytest: develop ## only the tests: make pytest ARGS="tests/unit -x"
	$(BIN)/python -m pytest $(ARGS)

# SECONDS of operations for each group of four backends; the seed that was used is shown at the end.
SECONDS ?= 60
SEED ?=
.PHONY: chaos
chaos: develop ## load on every backend while everything is done to it: make chaos SECONDS=60 SEED=1
	CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest tests/chaos -o faulthandler_timeout=0 $(ARGS) </dev/null

# The full run: make bench ARGS=--all has all scenarios. On a machine that does nothing else.
.PHONY: bench
bench: develop ## measure everything, about 25 minutes: bench/results/ and the tables of the README
	$(BIN)/python bench/publish.py $(ARGS) </dev/null

.PHONY: lint
lint: develop ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: develop ## ruff: put the files into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: develop ## mypy, strict
	$(BIN)/mypy

.PHONY: mutants
mutants: develop ## break planner, lifecycle and restart by hand; each break must fail the tests
	$(BIN)/python scripts/mutants.py $(ARGS)

.PHONY: clean
clean: ## remove the environments and all caches
	rm -rf $(VENV) $(TEST_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
