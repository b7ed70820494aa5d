# `make help` lists what there is. A Debian 12 or Ubuntu 24.04 with python3, python3-venv and make is enough: everything
# else is put into .venv, at the versions in constraints.txt. A second run finds the stamps there and installs nothing.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# One process of tests for each core; make test SPREAD= runs them one after the other.
SPREAD ?= --numprocesses auto --dist worksteal
SEEDS  ?= 1-1000
PLANT  ?=
WITHOUT ?=
BIN    := $(VENV)/bin

SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-builtin-rules

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
INSTALLED   := pyproject.toml constraints.txt src/keyhaus/__init__.py

.PHONY: help serve test soak simulate histories bench bench-larger bench-compare docs reference client format lock clean

help: ## What there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

serve: $(VENV)/.serve ## Serves ./data on 127.0.0.1:19272; ARGS='…' are options of `keyhaus serve`
	@exec $(BIN)/keyhaus serve $(ARGS)

test: $(VENV)/.test ## Lint, types, import rules and all tests; ARGS='…' are pytest's
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(SPREAD) $(ARGS)

# The same tests in their long forms. Each number can be set: make soak KEYHAUS_CRASH_CYCLES=20
soak: export KEYHAUS_CRASH_CYCLES ?= 200
soak: export KEYHAUS_HISTORIES ?= 20000
soak: export KEYHAUS_SIMULATION ?= 3000
soak: export KEYHAUS_DIFFERENTIAL ?= 5000
soak: export KEYHAUS_HYPOTHESIS ?= soak
soak: $(VENV)/.test ## The random and crash tests in their long forms (KEYHAUS_CRASH_CYCLES, KEYHAUS_HISTORIES, …)
	$(BIN)/pytest $(ARGS)

simulate: $(VENV)/.test ## The whole store, simulated: SEEDS=1-100000, SEEDS=4711 ARGS=--trace, PLANT=fault
	$(BIN)/python -m tests.support.simulate $(SEEDS) $(if $(PLANT),--plant $(PLANT)) $(ARGS)

histories: $(VENV)/.test ## Transactions, checked: SEEDS=1-100000, SEEDS=4711 ARGS=--trace, WITHOUT=rule (ARGS=--rules)
	$(BIN)/python -m tests.support.isolation $(SEEDS) $(if $(WITHOUT),--leave-out $(WITHOUT)) $(ARGS)

bench: $(VENV)/.test ## Beside redis-server: throughput (ARGS='…'), then recovery and memory (RECOVERY_ARGS='…')
	$(BIN)/python -m benchmarks.network $(ARGS)
	$(BIN)/python -m benchmarks.recovery $(RECOVERY_ARGS)

bench-larger: $(VENV)/.test ## Data larger than RAM (ARGS='…'), then latencies beside flushes (FLUSHES_ARGS='…')
	$(BIN)/python -m benchmarks.larger $(ARGS)
	$(BIN)/python -m benchmarks.flushes $(FLUSHES_ARGS)

bench-compare: $(VENV)/.test ## This tree beside another commit: make bench-compare REF=main~3
	@[ -n "$(REF)" ] || { echo "say which commit to compare with: make bench-compare REF=main~3" >&2; exit 2; }
	$(BIN)/python -m benchmarks.compare "$(REF)" $(ARGS)

docs: $(VENV)/.test ## Builds the documentation into site/
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: $(VENV)/.test ## Writes the generated pages of docs/reference anew
	$(BIN)/python docs/generate.py

client: $(VENV)/.test ## Makes the client that blocks from the asynchronous one
	$(BIN)/python tools/generate_client.py

format: $(VENV)/.test ## Lets ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs Python 3.11, the oldest that is supported: what it needs, the later ones need too. redis wants async-timeout
# below 3.11.3 (Debian 12 has 3.11.2), so it is pinned whichever 3.11 this runs on.
lock: ## Resolves the dependencies anew and pins them in constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "constraints are made with Python 3.11: make lock PYTHON=python3.11" >&2; exit 1; }
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]' async-timeout
	{ echo "# Every package at the version that was tested; made by: make lock"; \
	  .venv-lock/bin/python -m pip freeze --disable-pip-version-check --exclude-editable | grep -v ' @ '; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-lock

clean: ## Removes what was built; data stays
	rm -rf $(VENV) .venv-lock build dist site src/*.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { echo "no $(PYTHON) here: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "keyhaus needs Python 3.11 or later, this is $$($(PYTHON) --version): make … PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) can't make a virtual environment: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.serve: $(INSTALLED) | $(BIN)/python
	@echo "installing keyhaus and what it needs into $(VENV)"
	@$(PIP_INSTALL) .
	@touch $@

$(VENV)/.test: $(INSTALLED) | $(BIN)/python
	@echo "installing keyhaus, what it needs, and what its tests need into $(VENV)"
	@$(PIP_INSTALL) '.[test,dev]'
	@touch $@ $(VENV)/.serve
