# Everything a developer does. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run demo dev psql test test-fast test-world drills coverage mutants bench check audit format hooks \
	protos settings metrics effects baseline lock image image-lock release clean

help: ## List the targets
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## /{printf "  make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Running the service

# GRPC=127.0.0.1:9443 HTTP=127.0.0.1:9081 choose other ports, which .authsvc/config.toml remembers.
ADDRESSES := $(if $(GRPC),--grpc $(GRPC)) $(if $(HTTP),--http $(HTTP))

run: $(BIN)/python ## Run the service with everything it needs (GRPC=HOST:PORT HTTP=HOST:PORT for other ports)
	@$(BIN)/python -I -S authsvc/dev/ports.py $(ADDRESSES)
	@$(MAKE) --no-print-directory --silent $(VENV)/.run
	@exec $(BIN)/authsvc dev $(ADDRESSES)

demo: $(VENV)/.run ## Take a tour of the service that `make run` or `make dev` has started
	@exec $(BIN)/authsvc demo

dev: $(VENV)/.dev ## Run the service as `make run` does, and restart it when its code changes
	@exec $(BIN)/python -m authsvc.dev.watch $(ADDRESSES)

psql: $(VENV)/.run ## Open psql on the database of the running service (PSQL_ARGS='-c "SELECT 1"')
	@exec $(BIN)/python -m authsvc.dev.psql $(PSQL_ARGS)

##@ Testing

# Bytecode is cached whatever the environment says: collecting the tests takes half as long.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

test: $(VENV)/.dev ## Run all tests that need only Python (PYTEST_ARGS="tests/core -k refresh" runs some)
	$(PYTEST) $(PYTEST_ARGS)

test-fast: $(VENV)/.dev ## Run the tests not marked slow, in about a minute, and name the slowest
	$(PYTEST) -m "not slow" --durations=5 --durations-min=1 $(PYTEST_ARGS)

# Arguments may select tests of one of the two kinds only; without any, both have some.
NONE_IS_FINE = $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])

test-world: $(VENV)/.dev ## Run the tests that need more than Python, such as PgBouncer, or take long (up to 40 min)
	@$(BIN)/python -m tests.world.install
	POLYGLOT_TOOLCHAINS=required $(PYTEST) -m "world and not alone" $(PYTEST_ARGS) $(NONE_IS_FINE)
	$(BIN)/python -m pytest -m "world and alone" $(PYTEST_ARGS) $(NONE_IS_FINE)

drills: $(VENV)/.dev ## Run the drills, which take minutes to hours each (PYTEST_ARGS="-k memory" runs one)
	$(BIN)/python -m pytest -m drill -s --timeout=0 $(PYTEST_ARGS)

coverage: $(VENV)/.dev ## Run all tests, measure coverage, and fail if it is below the floor
	$(PYTEST) --cov --cov-report=term --cov-report=html $(PYTEST_ARGS)
	@echo "Line by line: .coverage/html/index.html"

mutants: $(VENV)/.dev ## Change the code one place at a time, and list the changes no test notices (up to 2 h)
	@PYTHONDONTWRITEBYTECODE= exec $(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

bench: $(VENV)/.dev ## Measure the service against a bare echo server and print the table
	@exec $(BIN)/python -m tests.bench

##@ Checking and formatting

check: $(VENV)/.dev $(VENV)/.protos ## Check format, lint, types, imports, dead code, spelling, protos, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture authsvc --exclude '*_pb2.py,*/authsvc/client/*,*/authsvc/testing/*'
	$(BIN)/vulture authsvc deploy tests
	$(BIN)/codespell
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf breaking protos --against protos/baseline.json
	$(BIN)/python -m tests.support.generated
	$(BIN)/python -m tests.support.settings_pages
	$(BIN)/python -m tests.support.metrics_page
	$(BIN)/python -m tests.support.chart_files
	$(BIN)/python -m deploy.observability

audit: $(VENV)/.dev ## Look up known vulnerabilities of the locked dependencies (needs the network)
	@$(BIN)/python -m deploy.release.audit

format: $(VENV)/.dev ## Format code and protos, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write protos

hooks: $(VENV)/.dev ## Install the pre-commit hooks
	$(BIN)/pre-commit install

##@ Generated files and releases

protos: $(VENV)/.dev $(VENV)/.protos ## Generate authsvc/v1 from protos/
	$(BIN)/python -m tests.support.generated --write

settings: $(VENV)/.dev ## Generate the pages of the settings, and the schema of the chart's values
	$(BIN)/python -m tests.support.settings_pages --write
	$(BIN)/python -m tests.support.chart_files --write

effects: $(VENV)/.dev ## Measure what the migrations lock and rewrite, for `authsvc upgrade check`
	$(BIN)/python -m tests.support.migration_effects --write

metrics: $(VENV)/.dev ## Generate the tables of docs/metrics.md
	$(BIN)/python -m tests.support.metrics_page --write

baseline: $(VENV)/.dev ## Record protos and SQL as released: later changes must not break those who use them
	$(BIN)/buf build protos --exclude-source-info -o protos/baseline.json
	$(BIN)/python -m tests.support.released_statements --write

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
lock: $(VENV)/.dev ## Lock the dependencies of pyproject.toml (UPGRADE=--upgrade takes newer versions)
	$(BIN)/$(LOCK) pyproject.toml $(UPGRADE) --extra server --extra otel -o deploy/requirements.lock
	$(BIN)/$(LOCK) pyproject.toml $(UPGRADE) --extra embedded -c deploy/requirements.lock -o deploy/requirements-embedded.lock
	$(BIN)/$(LOCK) pyproject.toml $(UPGRADE) --extra dev -c deploy/requirements-embedded.lock -o deploy/requirements-dev.lock
	$(BIN)/$(LOCK) --group protos $(UPGRADE) -o deploy/requirements-protos.lock

image: $(VENV)/.dev ## Build the container image into dist/, from Debian's packages and the locked wheels
	@exec $(BIN)/python -m deploy.image build

image-lock: $(VENV)/.dev ## Lock the newest versions of Debian's packages in the image
	@exec $(BIN)/python -m deploy.image lock

release: $(VENV)/.dev ## Release VERSION=1.2.3: changelog, packages, SBOM, tag (DRY_RUN=1 only says what)
	@test -n "$(VERSION)" || { echo "error: name the version: make release VERSION=1.2.3"; exit 1; }
	@exec $(BIN)/python -m deploy.release $(if $(DRY_RUN),--dry-run) $(VERSION)

clean: ## Remove the virtual environment, caches and build output; .authsvc/ and its data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "error: this Python can't make virtual environments (Debian: apt-get install python3-venv)"; exit 1; }

# -I -S: only Python's own library, as nothing else is installed yet.
INSTALL := $(BIN)/python -I -S authsvc/dev/install.py
$(VENV)/.run: $(BIN)/python deploy/requirements-embedded.lock pyproject.toml
	@echo "Installing dependencies: about half a minute, plus the time to download them, the first time only …"
	@$(INSTALL) deploy/requirements-embedded.lock
	@touch $@

$(VENV)/.dev: $(BIN)/python deploy/requirements-dev.lock pyproject.toml
	@echo "Installing dependencies for development: about a minute, plus the time to download them, the first time only …"
	@$(INSTALL) deploy/requirements-dev.lock
	@touch $@ $(VENV)/.run

# The generator has an environment of its own: what it generates has to run with older versions of
# grpcio and protobuf than the service's.
$(VENV)/.protos: $(BIN)/python deploy/requirements-protos.lock
	@echo "Installing the generator of authsvc/v1 …"
	@$(BIN)/python -m venv --clear --without-pip $(VENV)/protos
	@$(BIN)/python -m pip --python $(VENV)/protos/bin/python install --quiet --compile \
		--disable-pip-version-check --require-hashes -r deploy/requirements-protos.lock
	@touch $@
