# `make help` lists the targets. Everything runs in .venv, which is made on first use.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs examples clean python dev

PYTHON ?= python3
ROOM ?=
BIN := .venv/bin
BUDGET ?= 4min

# A mirror of the data sets beside the checkout is used when the user named none.
ifndef MLSYSOPT_DATA
ifneq ($(wildcard ../shared/data),)
export MLSYSOPT_DATA := $(abspath ../shared/data)
endif
endif

help:  ## this list
	@awk -F ':.*## *' '/^[a-z]+:.*##/ {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12     interpreter for .venv (3.11 or newer)"
	@echo "  TORCH_INDEX=URL       extra package index, e.g. one with CPU-only builds of torch"
	@echo "  MLSYSOPT_DATA=DIR     local mirror of the data sets"

demo: python  ## set up what it needs and tune a real RocksDB (under eight minutes once installed)
	@$(PYTHON) scripts/environment.py tune --packages rocksdb-tools
	@mkdir -p demo
	@code=0; $(BIN)/mlsysopt tune run rocksdb --engine auto --memory 256MiB --budget $(BUDGET) \
	    --store demo/tune.db --report demo/report --out demo/rocksdb-options.ini || code=$$?; \
	if [ $$code = 4 ]; then \
	    echo "Not proven: on this machine no candidate was verifiably better, so the default stays. That is an answer, not a failure."; \
	    code=0; \
	fi; \
	if [ $$code = 0 ]; then echo "report: demo/report/index.html   options: demo/rocksdb-options.ini"; fi; \
	exit $$code

test: dev  ## set up what is missing and run every test
	@$(PYTHON) scripts/environment.py dev --packages rocksdb-tools postgresql redis-server memcached chromium
	@if [ -z "$${MLSYSOPT_DATA:-}" ]; then echo "no data mirror (MLSYSOPT_DATA): tests that need a data set run on small generated cases"; fi
	$(BIN)/python -m pip check
	@code=0; \
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not real" || code=1; \
	echo "now the tests that need a real server, browser or cluster, one at a time"; \
	$(BIN)/python -m pytest -q -m real tests/real || code=1; \
	exit $$code

check: dev  ## lint, format, types, import layers, strict docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

examples: dev  ## run every example
	@for file in examples/*.py; do echo "== $$file"; timeout 60 $(BIN)/python $$file; done

bench: dev  ## run the benches of ROOM (all without it) and merge their results
	@files=$$(grep -lE '\bBench\(' bench/$(ROOM)$(if $(ROOM),_)*.py 2>/dev/null | grep -v -E '/(protocol|merge)\.py$$' || true); \
	[ -n "$$files" ] || { echo "no bench of room '$(ROOM)'; there are: $$(grep -lE '\bBench\(' bench/*_*.py | sed -E 's|bench/([a-z]+)_.*|\1|' | sort -u | xargs)"; exit 2; }; \
	code=0; \
	for file in $$files; do \
	    name=$$(basename $$file .py); \
	    echo "== bench.$$name"; \
	    $(BIN)/python -m bench.$$name || { code=1; echo "bench.$$name did not pass"; }; \
	done; \
	$(BIN)/python -m bench.merge; $(BIN)/python -m bench.picture; \
	exit $$code

docs: dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

clean:  ## remove everything that make has made
	rm -rf .venv demo site dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

dev: python
	@$(PYTHON) scripts/environment.py dev

python:
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one with PYTHON=/path/to/python3"; exit 3; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1): 3.11 or newer is needed; name one with PYTHON=python3.12"; exit 3; }
