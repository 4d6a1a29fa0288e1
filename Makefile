# Every target is self-sufficient: it makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.PHONY: train test slow dev lint format types bench docs check clean
.DEFAULT_GOAL := help

help:
	@echo "make train   train the default agent (ARGS='--quick' for the short version)"
	@echo "make test    the whole test suite"
	@echo "make slow    the tests marked slow"
	@echo "make dev     install the developers' tools"
	@echo "make check   lint, types, architecture"
	@echo "make bench   the benchmarks, one after another (long)"
	@echo "make docs    build docs/_build/html"
	@echo "make clean   remove what make made"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "got $$($(PYTHON) --version); wanted Python >= 3.11; do: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt --upgrade pip

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing palaestra and its dependencies into $(VENV) (once) ..."
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -q -c constraints.txt --group dev
	@mkdir -p build/typing && ln -sfn ../.. build/typing/palaestra
	@touch $@

train: $(VENV)/.run
	@$(BIN)/palaestra train $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -m slow $(ARGS)

dev: $(VENV)/.dev

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/pyright

check: lint types
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(VENV)/.dev
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.run
	$(PIP) install -q -c constraints.txt --group docs
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
