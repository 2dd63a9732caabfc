# Holdfast. Needs Python 3.11+ and make; `make up` uses a Docker engine where there is one.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
COMPOSE := deploy/compose.sh
NATIVE := $(BIN)/python -m holdfast.installations.native
MADE := [ -x $(BIN)/python ] && { [ -d .holdfast ] || [ -n "$$HOLDFAST_HOME" ] || grep -qs '^HOLDFAST_HOME=' .env; }
SEED ?= 1
MINUTES ?= 5
BACKEND ?= native
RUNS ?= 10
CASES ?= 10000
ROUNDS ?= 3
KILLS ?= 5
PEERS := .venv-peers

.PHONY: help up native down demo test lint lock audit sbom licences chaos swarm fuzz bench image clean venv screenshots wheel
.PHONY: attack matrix bench-venv bench-takeover upgrades

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Every install is checked against the hashes; pip's own configuration names the index.
.venv/ready: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Holdfast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "installing into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/holdfast.pth"
	@printf '%s\n' '#!/bin/sh' 'exec "$(CURDIR)/$(BIN)/python" -m holdfast.cli.main "$$@"' > $(BIN)/holdfast
	@chmod +x $(BIN)/holdfast
	@touch $@

venv: .venv/ready

up: ## start everything and wait until it is ready: in containers, or else as plain processes
	@if docker info >/dev/null 2>&1 && $(COMPOSE) version >/dev/null 2>&1; then \
	    deploy/check-project.sh up || exit 1; \
	    chmod -R a+rX postgres observability; \
	    if $(COMPOSE) pull --quiet --policy missing postgres >/dev/null 2>&1 && $(COMPOSE) build; then \
	        $(COMPOSE) up --detach --wait \
	            || { $(COMPOSE) logs --no-log-prefix --tail 5 secrets migrate api >&2; exit 1; }; \
	        deploy/check-project.sh note; \
	        $(COMPOSE) port api 8000 | sed 's#^#Holdfast is ready at http://#'; \
	    else \
	        echo "A Docker engine answers, but its images cannot be had; starting as plain processes."; \
	        $(MAKE) --no-print-directory up-native; \
	    fi; \
	else \
	    echo "No Docker engine with Compose answers; starting as plain processes."; \
	    $(MAKE) --no-print-directory up-native; \
	fi

.PHONY: up-native
up-native: .venv/ready
	@$(NATIVE) up --detach

native: .venv/ready ## the same as plain processes in the foreground; Ctrl-C drains and ends it
	@exec $(NATIVE) up

down: ## end what `make up` started; the data stays
	@if $(MADE); then $(NATIVE) down; fi
	@if docker info >/dev/null 2>&1 && $(COMPOSE) version >/dev/null 2>&1 && deploy/check-project.sh down; then \
	    $(COMPOSE) --profile '*' down; \
	fi

demo: .venv/ready ## kill a worker, pause another, restart the API, and see the work go on
	@$(BIN)/holdfast demo

# Most tests wait for something, so three parts run side by side; the output of the second and third follows.
# Four were tried: browsers and others then waited too long for two cores.
# What measures a time runs after them, alone. ARGS chooses tests: they run one after the other.
PYTEST := $(BIN)/python -m pytest
FIRST := tests/container tests/unit/compute tests/integration/attached
SECOND := tests/integration tests/files
test: .venv/ready ## all tests, or those of ARGS; those in containers are skipped where no engine answers
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@logs=$$(mktemp -d); \
	$(PYTEST) -m 'not timing' $(FIRST:%=--ignore=%) $(SECOND) >$$logs/second 2>&1 & second=$$!; \
	$(PYTEST) -m 'not timing' $(FIRST:%=--ignore=%) $(SECOND:%=--ignore=%) >$$logs/third 2>&1 & third=$$!; \
	trap 'kill $$second $$third 2>/dev/null; rm -rf $$logs' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	failed=0; $(PYTEST) -m 'not timing' $(FIRST) || failed=1; \
	wait $$second || failed=1; cat $$logs/second; \
	wait $$third || failed=1; cat $$logs/third; \
	$(PYTEST) -m timing $$(grep -rl --include='test_*.py' 'mark\.timing' tests examples) || failed=1; \
	exit $$failed
endif

lint: .venv/ready ## format, rules, types, imports, Dockerfile
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint Dockerfile examples/storefront/Dockerfile

chaos: .venv/ready ## faults under load: SEED=... MINUTES=... ARGS='--backend networks' across hosts
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES) $(ARGS)

matrix: .venv/ready ## every kind of workflow through every end of its process, in a foreign application: ROUNDS=... CELLS=diagonal
	@MATRIX_ROUNDS=$(ROUNDS) MATRIX_CELLS=$(CELLS) MATRIX_REPORT=docs/reports/attached-matrix.md \
		$(BIN)/python -m pytest tests/integration/attached/test_matrix.py

swarm: .venv/ready ## rolling updates under load on a Swarm of this one machine: SEED=... ARGS=...
	@$(BIN)/python -m tests.swarm --seed $(SEED) $(ARGS)

bench: .venv/ready $(PEERS)/ready ## beside DBOS, Temporal, procrastinate and celery: ROUNDS=... ARGS=...
	@$(BIN)/python -m bench.compare --rounds $(ROUNDS) $(ARGS)

bench-takeover: .venv/ready ## how long a takeover takes: BACKEND=native|compose RUNS=...
	@$(BIN)/python -m bench.takeover --backend $(BACKEND) --runs $(RUNS)

# The peers have a separate environment; nothing of it gets into .venv or into the image.
$(PEERS)/ready: bench/requirements-peers.lock
	@echo "installing the peers into $(PEERS)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	    -r bench/requirements-peers.lock
	@touch $@

bench-venv: $(PEERS)/ready

attack: .venv/ready ## clients that never read, drip and flood, against a Compose project of its own: ARGS='--seconds 60'
	@$(COMPOSE) build --quiet && $(BIN)/python -m tests.attack $(ARGS)

fuzz: .venv/ready ## every operation of the API against its schema: CASES=... SEED=...
	@$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED)

# The older DBOS for the upgrade tests: the only download that no lock names.
build/dbos-older: .venv/ready tests/support/dbos-older.txt
	@rm -rf $@ && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	    --target $@ -r tests/support/dbos-older.txt

.PHONY: dbos-versions third-parties
dbos-versions: .venv/ready ## kill a plain application on each DBOS 3 of the index: KILLS=... ARGS='--only 3.0'
	@$(BIN)/python -m tests.foreign dbos --kills $(KILLS) --report $(ARGS)

third-parties: .venv/ready ## the same with packages built on DBOS: Pydantic AI, OpenAI Agents, dbosify, dbos-argus
	@$(BIN)/python -m tests.foreign packages --kills $(KILLS) --report $(ARGS)

upgrades: build/dbos-older ## rolling upgrades under work, from the DBOS before ours too
	@HOLDFAST_UPGRADES=1 $(BIN)/python -m pytest tests/acceptance/test_upgrades.py \
	    tests/acceptance/test_dbos_upgrade.py tests/container/test_own.py

screenshots: .venv/ready ## the pictures in docs/images, taken of a real run (needs Chromium)
	@HOLDFAST_SCREENSHOTS=1 HOLDFAST_REQUIRE_DOCKER=1 $(BIN)/python -m pytest tests/browser/test_console_real.py

# From a clean start: setuptools would take files that have moved from its own folders of an earlier build.
wheel: .venv/ready ## build the distribution that attaches to DBOS applications: build/wheel/holdfast_dbos-….whl
	@rm -rf build/wheel build/lib build/bdist.* holdfast_dbos.egg-info
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	    --wheel-dir build/wheel .
	@rm -rf build/lib build/bdist.* holdfast_dbos.egg-info
	@ls build/wheel/*.whl

image: ## build the image
	@$(COMPOSE) build

# --universal: one file for every platform and Python from 3.11 on.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header
LOCKS := requirements.lock requirements-dev.lock bench/requirements-peers.lock
LOCK_HEAD := '\# Every dependency with its hashes; no index is named: pip knows where packages come from.' \
    '\# Written by `make lock`; do not edit.'
lock: .venv/ready ## write all locks anew; UPGRADE=--upgrade takes newer versions
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(COMPILE) $(UPGRADE) pyproject.toml --extra stack --output-file requirements.lock >/dev/null
	@$(COMPILE) $(UPGRADE) pyproject.toml --extra stack --extra native --extra dev --constraint requirements.lock \
	    --output-file requirements-dev.lock >/dev/null
	@$(COMPILE) $(UPGRADE) bench/requirements-peers.in --output-file bench/requirements-peers.lock >/dev/null
	@for file in $(LOCKS); do \
	    { printf '%s\n' $(LOCK_HEAD); sed '/^# Every dependency\|^# Written by/d' $$file; } > $$file.new && mv $$file.new $$file; \
	done
	@touch .venv/ready

# Exit code 0 means that OSV answered and knows no vulnerability. No answer is a failure.
audit: .venv/ready ## ask OSV for known vulnerabilities in all that is locked (needs the network)
	@mkdir -p build && rm -f build/audit.txt
	@$(BIN)/pip-audit --strict --disable-pip --vulnerability-service osv --progress-spinner off \
	    --requirement requirements-dev.lock --output build/audit.txt $(AUDIT) 2>build/audit.log \
	    || { if [ -s build/audit.txt ]; then cat build/audit.txt; \
	        else tail -n 1 build/audit.log; echo "NOT AUDITED: the advisory service did not answer (build/audit.log)"; fi >&2; \
	        exit 1; }
	@echo "no known vulnerability in $$(grep -c '^[a-z0-9].*==' requirements-dev.lock) locked packages"

sbom: .venv/ready ## what the image brings along, with versions and hashes: build/holdfast.cdx.json (CycloneDX)
	@mkdir -p build
	@$(BIN)/python -W ignore -m cyclonedx_py requirements requirements.lock --pyproject pyproject.toml --mc-type application \
	    --output-reproducible --output-format JSON --output-file build/holdfast.cdx.json
	@echo build/holdfast.cdx.json

licences: .venv/ready ## write docs/reports/licences.md; fails on a licence that nobody has allowed yet
	@$(BIN)/python -m tests.support.licences

clean: ## end the plain processes, delete their data, .venv and caches (volumes of Compose: docker compose down -v)
	@if $(MADE); then $(NATIVE) clean; fi
	@rm -rf .venv $(PEERS) .holdfast .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis build
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
