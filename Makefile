# Every target prepares what it needs; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
CACHE ?= $(or $(DYNAMOLLM_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dynamollm)
UV_VERSION := 0.13.9
UV := $(CACHE)/bootstrap-$(UV_VERSION)/bin/uv
BIN := .venv/bin
IMAGE ?= dynamollm/dynamollm:0.1.0
BASE ?= python:3.11-slim
E2E ?= tests/e2e
ROUNDS ?= 5

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(UV):
	@echo "installing uv $(UV_VERSION) into $(CACHE)"
	@$(PYTHON) -m venv $(CACHE)/bootstrap-$(UV_VERSION)
	@$(CACHE)/bootstrap-$(UV_VERSION)/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

.venv/.stamp: requirements.lock pyproject.toml | $(UV)
	@echo "installing the locked dependencies into .venv"
	@$(UV) venv -q --allow-existing --python $(PYTHON) .venv
	@$(UV) pip sync -q --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: .venv/.stamp ## make .venv from the lock file

.PHONY: lock
lock: | $(UV) ## refresh the lock files from pyproject.toml
	@$(UV) pip compile -q --universal --generate-hashes --python-version 3.11 --extra dev --no-emit-index-url \
	  --custom-compile-command "make lock" -o requirements.lock pyproject.toml
	@$(UV) pip compile -q --universal --generate-hashes --python-version 3.11 -c requirements.lock --no-emit-index-url \
	  --custom-compile-command "make lock" -o requirements-image.lock pyproject.toml
	@$(UV) pip compile -q --universal --generate-hashes --python-version 3.11 -c requirements.lock --no-emit-index-url \
	  --custom-compile-command "make lock" -o requirements-build.lock requirements-build.in

.PHONY: image
image: ## build the image with docker (IMAGE=NAME:TAG BASE=IMAGE)
	@docker build --build-arg BASE=$(BASE) --build-arg REVISION=$$(git rev-parse --short HEAD) -t $(IMAGE) .

.PHONY: demo
demo: setup ## watch a trace being served on a local control plane (SPEED=8 RATE=1 DEMO_OUT=FILE TRACE=FILE)
	@PYTHONPATH=hack $(BIN)/python -m lab.demo

.PHONY: test
test: setup ## run all tests, those against a real control plane included
	@PYTHONPATH=hack $(BIN)/python -m lab build
	@$(BIN)/pytest -q -n auto --dist loadfile tests/unit tests/component
	@$(BIN)/pytest -q tests/integration tests/e2e

.PHONY: fuzz
fuzz: setup ## look for counterexamples: every property on other examples, ROUNDS times (ROUNDS=5)
	@for round in $$(seq $(ROUNDS)); do \
	  HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest -q -n auto --dist loadfile -m hypothesis tests/unit || exit 1; \
	done

.PHONY: e2e
e2e: setup ## the end-to-end tests: make demo on the local cluster, image and chart on kind where there is one (E2E=FILE, docs/e2e.md)
	@$(BIN)/pytest -q $(E2E)

.PHONY: bench
bench: setup ## times and ratios of the decision code, and the forecast against naive ones (BENCH_OUT=FILE for JSON)
	@PYTHONPATH=hack $(BIN)/python hack/bench.py
	@PYTHONPATH=hack $(BIN)/python hack/bench_simulator.py
	@PYTHONPATH=hack $(BIN)/python hack/bench_core.py
	@PYTHONPATH=hack OMP_NUM_THREADS=1 $(BIN)/python hack/bench_forecast.py

.PHONY: bench-capacity
bench-capacity: setup ## capacities that plans count on beside simulated ones (three quarters of an hour once; BENCH_OUT=FILE for JSON)
	@PYTHONPATH=hack $(BIN)/python hack/bench_capacity.py

.PHONY: bench-core
bench-core: setup ## times of a plan, of a thousand services, of a forecast (BENCH_OUT=FILE for JSON)
	@PYTHONPATH=hack $(BIN)/python hack/bench_core.py

.PHONY: bench-forecast
bench-forecast: setup ## the forecast against the naive ones, on traces of ../shared/data where present (BENCH_OUT=FILE for JSON)
	@PYTHONPATH=hack OMP_NUM_THREADS=1 $(BIN)/python hack/bench_forecast.py

.PHONY: paper
paper: setup ## docs/paper-comparison.md: the paper's figures beside ours, by simulation (hours; goes on where it was cut off)
	@$(BIN)/python hack/paper_comparison.py

.PHONY: crds
crds: setup ## regenerate crds/, their copy in the chart and docs/api.md from the models
	@$(BIN)/dynamollm crd --out crds
	@cp crds/*.yaml charts/dynamollm/files/crds/
	@$(BIN)/python hack/make_api_docs.py

.PHONY: chart
chart: setup ## regenerate manifests/base, dashboards and the values in docs/install.md from charts/dynamollm
	@PYTHONPATH=hack $(BIN)/python hack/make_chart.py

.PHONY: format
format: setup ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix -q .

.PHONY: lint
lint: setup ## ruff, mypy strict, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: clean
clean: ## remove what the targets made inside the tree (caches outside stay)
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
