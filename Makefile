# The same targets on a laptop and in CI. `make demo` and `make test` install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEPLOY_TOOLS := $(VENV)/.deploy-tools
COLD_LOAD ?= --pages 4 --requests 40 --long-requests 100
WARM_LOAD ?= --pages 4 --corpus-pages 40
NO_CACHES := --feature-cache-gpu-bytes 0 --feature-cache-host-bytes 0 --page-cache-bytes 0

.PHONY: install format check check-deploy test test-gpu bench bench-smoke demo clean help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## create .venv with everything that the project needs

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,dev,otel,train]'
	@touch $@

demo: $(INSTALLED) ## start the service, rank a bundled PDF over HTTP, stop it
	$(BIN)/ziprerank demo

test: $(INSTALLED) ## all tests that need no GPU
	$(BIN)/python -m pytest

test-gpu: $(INSTALLED) ## the tests that need a CUDA device; fails without one
	REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu

check: $(INSTALLED) ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-deploy: $(DEPLOY_TOOLS) ## image, compose, Kubernetes, rules, dashboard: read by their own tools, and tried on live services
	deploy/install_check_tools
	REQUIRE_DEPLOY_TOOLS=1 $(BIN)/python -m pytest tests/deploy

$(DEPLOY_TOOLS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[deploy]'
	@touch $@

format: $(INSTALLED) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## measure this machine (minutes): stage by stage, under load, the host's part; then the tables
	$(BIN)/python -m benchmarks.micro_checks
	$(BIN)/python -m benchmarks.stage_latency
	$(BIN)/python -m benchmarks.http_load --send jpeg $(COLD_LOAD) -- $(NO_CACHES)
	$(BIN)/python -m benchmarks.http_load --send registered $(WARM_LOAD)
	$(BIN)/python -m benchmarks.event_loop
	$(BIN)/python -m benchmarks.host_path
	$(BIN)/python -m benchmarks.ranking_agreement
	$(BIN)/python -m benchmarks.report

bench-smoke: $(INSTALLED) ## a short form of every benchmark: do they run, and do the arms agree?
	$(BIN)/python -m benchmarks.micro_checks --smoke
	$(BIN)/python -m benchmarks.stage_latency --smoke
	$(BIN)/python -m benchmarks.http_load --smoke
	$(BIN)/python -m benchmarks.ranking_agreement --smoke

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
