# `make help` lists what there is to make.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
PINS := pyproject.toml constraints.txt

.PHONY: help demo test check check-types check-rest audit docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

demo: .venv/.installed-run ## install, train on digits, evaluate, run two defenses, poison a few test digits, report: all into demo-run/
	@$(BIN)/python scripts/demo

test: .venv/.installed-dev ## install, run all tests, a file on each of up to four cores; ARGS="..." goes to pytest
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: check-types check-rest ## lint, formatting, types, spelling, and the tables of results; -j2 is faster

check-types: .venv/.installed-dev
	@$(BIN)/mypy
	@$(BIN)/mypy examples

check-rest: .venv/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/python scripts/results-table --check
	@$(BIN)/python scripts/results-figure --check

audit: .venv/.installed-dev ## compare what is installed with the locked list, and that with known advisories; no network
	@$(BIN)/python scripts/audit-dependencies

docs: .venv/.installed-docs ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean: ## remove what was built, .venv included; demo-run/ and results/ stay
	rm -rf .venv site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests scripts -name __pycache__ -prune -exec rm -rf {} +

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: expected Python 3.11 or newer; found '$$($(PYTHON) --version 2>&1)'; try: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: expected Python's venv module; found none; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed-run: .venv/.created $(PINS)
	@echo "Installing inputaware and what it needs into .venv; most of it is torch, which takes minutes the first time"
	@$(INSTALL) '.'
	@touch $@

.venv/.installed-dev: .venv/.created $(PINS)
	@echo "Installing inputaware and the tools for its tests into .venv; most of it is torch, which takes minutes the first time"
	@$(INSTALL) '.[dev]'
	@touch $@ .venv/.installed-run

.venv/.installed-docs: .venv/.created $(PINS)
	@echo "Installing what builds the documentation into .venv"
	@$(INSTALL) '.[docs]'
	@touch $@ .venv/.installed-run
