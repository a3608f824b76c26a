# Everything a developer does. `make` alone says what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard protos/authsvc/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help run demo test check format bench mutants protos baseline lock clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: $(VENV)/.run ## Run the service with an embedded PostgreSQL and development certificates
	@exec $(BIN)/authsvc dev

demo: $(VENV)/.run ## Tour the main job against the service that `make run` started
	@exec $(BIN)/authsvc demo

test: $(VENV)/.dev ## Run the whole test suite
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

check: $(VENV)/.dev ## Check format, lint, types, import contracts, protos and generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf breaking protos --against protos/baseline.json
	$(BIN)/python -m tests.support.generated

format: $(VENV)/.dev ## Format the code and the protos
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write protos

bench: $(VENV)/.dev ## Measure the service beside a bare echo and print the table
	@exec $(BIN)/python -m tests.bench

mutants: $(VENV)/.dev ## Change the code in one place at a time and list what no test notices (hours)
	@exec $(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

protos: $(VENV)/.dev ## Generate authsvc/v1 from protos/
	$(BIN)/python -m tests.support.generated --write

baseline: $(VENV)/.dev ## Declare the present protos released: later changes must not break them
	$(BIN)/buf build protos --exclude-source-info -o protos/baseline.json

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml
lock: $(VENV)/.dev ## Renew the locks (UPGRADE=--upgrade for newer versions)
	$(BIN)/$(LOCK) $(UPGRADE) -o deploy/requirements.lock
	$(BIN)/$(LOCK) $(UPGRADE) --extra embedded -c deploy/requirements.lock -o deploy/requirements-embedded.lock
	$(BIN)/$(LOCK) $(UPGRADE) --extra embedded --extra dev -c deploy/requirements-embedded.lock -o deploy/requirements-dev.lock

clean: ## Remove the virtual environment and caches; .authsvc/ with its data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "error: this Python can't make virtual environments (Debian: apt-get install python3-venv)"; exit 1; }

INSTALL := $(BIN)/python -m pip install --quiet --compile --disable-pip-version-check
$(VENV)/.run: $(BIN)/python deploy/requirements-embedded.lock pyproject.toml
	@echo "Installing dependencies …"
	@$(INSTALL) --require-hashes -r deploy/requirements-embedded.lock
	@PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python deploy/requirements-dev.lock pyproject.toml
	@echo "Installing dependencies for development …"
	@$(INSTALL) --require-hashes -r deploy/requirements-dev.lock
	@PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run
