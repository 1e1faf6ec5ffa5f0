# `make help` lists what there is. Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
JOBS ?= 2
DATA ?= ../shared/data
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check lint format bench report clean

help: ## Show this list
	@echo "bertwright: from labelled text to a small, fast, proven model"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=python3.12  which Python makes $(VENV) (3.11 or newer; now: $(PYTHON))"
	@echo "  JOBS=4             how many test processes (now: $(JOBS))"
	@echo "  DATA=folder        where the datasets of 'make bench' are (now: $(DATA))"

setup: $(STAMP) ## Make .venv and install everything (again only when requirements change)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "bertwright: '$(PYTHON)' is not installed. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "bertwright needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1 | head -n 1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "bertwright: $(PYTHON) cannot make a virtual environment (on Debian or Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --constraint constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[all,dev]"
	@touch $(STAMP)

demo: setup ## Fine-tune, compress, measure, choose: the whole road on built-in text
	$(BIN)/bertwright demo

test: setup ## Run the tests (minutes; no network, no GPU)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: setup ## Run the long tests (memory of a million rows, kill and resume at length)
	$(BIN)/python -m pytest -m slow --timeout 1800

check: lint ## Check style, formatting, types and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_docs.py

lint: setup ## Check style only (a second)
	$(BIN)/ruff check .

format: setup ## Mend formatting and what ruff can mend by itself
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup ## Run the benchmarks; figures go to results/
	@for script in $(wildcard benchmarks/memory_*.py); do echo "== $$script"; $(BIN)/python $$script || exit 1; done
	$(BIN)/python benchmarks/plain_transformers.py --data-dir $(DATA) --name clinc150 --epochs 5 --lr 3e-4 --batch-size 64 --out results/clinc150/plain-s0.json
	$(BIN)/python benchmarks/plain_transformers.py --data-dir $(DATA) --name sst2 --train train_sentences.jsonl --epochs 3 --lr 1e-4 --batch-size 32 --out results/sst2/plain-s0.json

report: setup ## Make the README's tables from results/
	$(BIN)/python scripts/make_tables.py

clean: ## Remove what can be made again, .venv included
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
