# The same targets on a laptop and in CI. `make demo` and `make test` install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEPLOY_TOOLS := $(VENV)/.deploy-tools
DOCS_TOOLS := $(VENV)/.docs-tools
COLD_LOAD ?= --pages 4 --requests 40 --long-requests 100
API_CASES ?= 2000
FUZZ_SECONDS ?= 300
FUZZ_SEED ?= $(shell date +%s)
SOAK_SECONDS ?= 600
WARM_LOAD ?= --pages 4 --corpus-pages 40
VARIANT ?= cuda
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TOOLS := build/image-tools
# Ray brings another event loop for uvicorn (uvloop), which the other tests should not meet.
RAY_VENV := build/ray
# Where the CPU wheels of torch are: PyTorch's index of them (its installation page names it), or a folder.
CPU_TORCH_INDEX ?=
CPU_TORCH ?= $(if $(CPU_TORCH_INDEX),--index $(CPU_TORCH_INDEX) --index-strategy unsafe-best-match)
LOCK = $(TOOLS)/bin/uv pip compile pyproject.toml --extra otel --extra s3 --constraints constraints.txt --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --python-version 3.11 --python-platform x86_64-manylinux_2_28
# Both architectures have wheels of everything in a lock, with the hashes in it. Downloads nothing.
define LOCK_HOLDS_FOR
$(TOOLS)/bin/uv pip install --quiet --dry-run --require-hashes --only-binary :all: --requirement docker/requirements-$(1).lock \
	--target build/lock-check --python-version 3.11 --python-platform $(2)-manylinux_2_28

endef
# Tests that import no torch and take seconds in all; tests/test_unit_target.py holds them to the first.
UNIT_TESTS := \
	tests/test_docs.py tests/test_layout.py tests/test_prose.py tests/test_unit_target.py \
	tests/benchmarks/test_distribution.py tests/benchmarks/test_pdf_questions.py \
	tests/docker \
	tests/model/pages tests/model/test_ranking.py tests/model/test_windows.py \
	tests/model/training/test_data_files.py tests/model/training/test_mmdocir.py \
	tests/model/training/test_page_images.py tests/model/training/test_parquet_images.py \
	tests/model/training/test_rank_zephyr.py tests/model/training/test_rate_limit.py \
	tests/model/training/test_run_file.py tests/model/training/test_spending.py \
	tests/service/commands/test_progress.py tests/service/commands/test_rank_form.py \
	tests/service/commands/test_rank_table.py \
	tests/service/dialects/test_ziprerank.py \
	tests/service/documents/test_gather.py tests/service/documents/test_selection.py \
	tests/service/fetching \
	tests/service/http/test_admission.py tests/service/http/test_callers.py tests/service/http/test_exchange.py \
	tests/service/raster/test_crash_history.py tests/service/raster/test_image_decoder.py \
	tests/service/raster/test_pdf_engine.py tests/service/raster/test_schedule.py \
	tests/service/raster/test_text_file.py \
	tests/service/registered/test_source.py tests/service/registered/test_store.py \
	tests/service/test_configuration_page.py \
	tests/service/test_errors.py tests/service/test_error_page.py tests/service/test_fair_queue.py \
	tests/service/test_fair_threads.py tests/service/test_lifecycle.py tests/service/test_limits_table.py \
	tests/service/test_retry_after.py tests/service/test_stall_watch.py tests/service/test_wire_names.py \
	tests/service/urls
NO_CACHES := --feature-cache-gpu-bytes 0 --feature-cache-host-bytes 0 --page-cache-bytes 0

.PHONY: install format check check-deploy docs test test-unit test-api test-ray test-clients test-browser test-gpu bench bench-smoke fuzz soak demo image image-check lock release sbom clean help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## create .venv with everything that the project needs

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,dev,otel,train]'
	@touch $@

demo: $(INSTALLED) ## start the service, rank a bundled PDF over HTTP, stop it
	$(BIN)/ziprerank demo --once

test: $(INSTALLED) ## all tests that need no GPU
	$(BIN)/python -m pytest

test-unit: $(INSTALLED) ## the tests that need neither torch nor a running service: seconds
	$(BIN)/python -m pytest $(UNIT_TESTS)

test-api: $(INSTALLED) ## a live service against its own API description: 2,000 requests or more for each group of routes (minutes)
	API_CASES=$(API_CASES) $(BIN)/python -m pytest -rP tests/service/http/test_api_fuzzing.py

test-ray: $(RAY_VENV)/.installed ## deploy/ray on a Ray cluster of this machine; in an environment of its own
	$(RAY_VENV)/bin/python -m pytest tests/service/test_ray_replica.py tests/end_to_end/test_ray_serve.py

$(RAY_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	@touch $@

test-clients: $(INSTALLED) $(TOOLS)/.installed ## real clients of rerank APIs, unmodified, against a service; in environments of their own, with npm
	$(BIN)/python -m tests.clients.install
	$(BIN)/python -m pytest tests/clients

test-browser: $(INSTALLED) ## the playground in Debian's chromium, with the keyboard and a drop; pictures in build/browser/pictures
	tests/browser/install
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/browser

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

docs: $(DOCS_TOOLS) ## the pages of docs/ as a site in build/docs, with every link checked
	$(BIN)/python -m mkdocs build --strict --clean
	REQUIRE_MKDOCS=1 $(BIN)/python -m pytest tests/test_docs.py tests/test_site.py

$(DOCS_TOOLS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

format: $(INSTALLED) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## measure this machine (minutes): stage by stage, under load, the host's part; then the tables
	$(BIN)/python -m benchmarks.micro_checks
	$(BIN)/python -m benchmarks.stage_latency
	$(BIN)/python -m benchmarks.http_load --send jpeg $(COLD_LOAD) -- $(NO_CACHES)
	$(BIN)/python -m benchmarks.http_load --send registered $(WARM_LOAD)
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.event_loop
	$(BIN)/python -m benchmarks.host_path
	$(BIN)/python -m benchmarks.ranking_agreement
	$(BIN)/python -m benchmarks.kept_tokens
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.report

bench-smoke: $(INSTALLED) ## a short form of every benchmark: do they run, and do the arms agree?
	$(BIN)/python -m benchmarks.micro_checks --smoke
	$(BIN)/python -m benchmarks.stage_latency --smoke
	$(BIN)/python -m benchmarks.http_load --smoke
	$(BIN)/python -m benchmarks.overload --smoke
	$(BIN)/python -m benchmarks.ranking_agreement --smoke
	$(BIN)/python -m benchmarks.attacks --smoke --only dripped_bodies

fuzz: $(INSTALLED) ## damaged documents and requests against the raster pool and a live service; FUZZ_SECONDS=300 for each of the two
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -rP tests/fuzzing

soak: $(INSTALLED) ## a service for SOAK_SECONDS=600 under load, a tenth of it hostile; then what it has kept
	$(BIN)/python -m benchmarks.soak --seconds $(SOAK_SECONDS)
	$(BIN)/python -m benchmarks.report

image: ## build the image with Docker; VARIANT=cpu (with CPU_TORCH_INDEX=…) for the small one, VARIANT=ray for deploy/ray; PLATFORM=linux/arm64
	docker build $(if $(PLATFORM),--platform $(PLATFORM)) --build-arg VARIANT=$(VARIANT) --build-arg CPU_TORCH_INDEX=$(CPU_TORCH_INDEX) --tag ziprerank:$(VERSION)-$(if $(filter cuda,$(VARIANT)),cu130,$(VARIANT)) .

image-check: ## build the CPU image without Docker and run it; Debian, root, about 8 GB of disk (docker/README.md)
	$(PYTHON) docker/image_check.py

lock: $(TOOLS)/.installed ## resolve docker/requirements-*.lock anew, at the versions of constraints.txt
	$(LOCK) --output-file docker/requirements-cuda.lock
	$(LOCK) --output-file docker/requirements-ray.lock --extra ray
	$(LOCK) --output-file docker/requirements-cpu.lock $(CPU_TORCH)
	$(foreach variant,cuda ray,$(foreach machine,x86_64 aarch64,$(call LOCK_HOLDS_FOR,$(variant),$(machine))))

release: ## VERSION=1.2.3: changelog section, version, commit and tag, on main; pushes nothing
	$(if $(filter command line,$(origin VERSION)),,$(error Name the version: make release VERSION=1.2.3))
	$(PYTHON) deploy/release/release.py cut $(VERSION)

sbom: $(INSTALLED) $(TOOLS)/.installed ## build/sbom: what is in each image, as CycloneDX
	$(TOOLS)/bin/python docker/sbom.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" build/sbom

$(TOOLS)/.installed: docker/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --requirement docker/tools.txt
	@touch $@

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
