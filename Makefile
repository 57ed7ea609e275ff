# Everything a contributor runs. Only Python 3.11+, make and pip are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHART := charts/feature-rollout-operator
STAMP := $(VENV)/.installed
WORKERS ?= 8
REPEATS ?= 20
TIMES ?= 100
IMAGE ?= feature-rollout-operator:dev
BASE_DIGEST ?=
SEED ?= 0
N ?= 1
# Each worker would rewrite the assertions of every test again: five seconds of CPU.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup toolchain demo check fmt generate test test-deep unit properties mutation chaos simulate planted bench \
	bench-core bench-store wheel image lock clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with featurerollout and kubectl-featurerollout in it

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "setup: creating $(VENV) from requirements-dev.lock" >&2
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "setup: Python 3.11 to 3.13 is needed (PYTHON=...), this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

toolchain: setup ## Build or find the control plane, PostgreSQL, Prometheus and Helm (8 to 11 minutes the first time)
	@$(BIN)/python -m feature_rollout.sandbox
	@PYTHONPATH=tests $(BIN)/python -m support.helm

demo: setup ## A rollout on a real control plane and database, with a regression that is taken back
	@$(BIN)/featurerollout demo

check: setup ## Format, lint, types, import layers, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/featurerollout crds --check crds
	$(BIN)/featurerollout crds --check $(CHART)/files/crds
	$(BIN)/python charts/generate.py --check
	$(BIN)/python docs/generate.py --check
	PYTHONPATH=docs $(BIN)/python gitops/generate.py --check

fmt: setup ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: setup ## Write the generated files again (crds/, the chart's values and CRDs, docs/reference.md, parts of gitops/)
	$(BIN)/featurerollout crds --output crds
	$(BIN)/featurerollout crds --output $(CHART)/files/crds
	$(BIN)/python charts/generate.py
	$(BIN)/python docs/generate.py
	PYTHONPATH=docs $(BIN)/python gitops/generate.py

unit: setup ## The tests that need no server
	$(BIN)/pytest tests/unit -n $(WORKERS)

properties: setup ## The core's properties on TIMES=100 as many examples as usual, others each time: half an hour
	FEATUREROLLOUT_DEEP=$(TIMES) $(BIN)/pytest tests/unit/core tests/unit/test_accepted_plans.py -n $(WORKERS) --dist worksteal --timeout=3600

mutation: setup ## How many small mistakes in the core its tests notice, by file (MODULES="exposure state", or all); at least 85 %
	@$(BIN)/python tests/mutation/score.py $(MODULES)

test: check toolchain ## Every check and every test; of the slowest faults a sample
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

chaos: toolchain ## Faults while the operator runs, each REPEATS times; a table of violations and times
	FEATUREROLLOUT_CHAOS=$(REPEATS) $(BIN)/pytest tests/chaos tests/e2e/test_outages.py tests/postgres/test_network_faults.py \
		tests/postgres/test_hostile_sql.py -n $(WORKERS) --dist worksteal

simulate: setup ## The loop in simulated worlds, N of them from SEED on; the trace of one, or of the first that fails
	@PYTHONPATH=tests $(BIN)/python -m simulation --seed $(SEED) --count $(N)

test-deep: setup ## 20,000 simulated worlds and the faults met in each phase; planted bugs; the mutation score: hours
	@PYTHONPATH=tests $(BIN)/python -m simulation --count 20000 --jobs $(WORKERS) --deep
	@$(MAKE) --no-print-directory planted
	@$(MAKE) --no-print-directory mutation

planted: setup ## Which planted bugs the simulation finds, and at which seed, as a table
	@PYTHONPATH=tests $(BIN)/python -m simulation.planted

bench: toolchain ## Latencies, memory and writes of the operator, as one JSON object
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_operator.py

bench-core: setup ## What a decision and a look cost, as JSON
	@PYTHONPATH=tests $(BIN)/python tests/bench/core.py

bench-store: setup ## What the flag store costs beside pgbench, and evaluations a second, as JSON
	@$(BIN)/python tests/bench/store.py

wheel: setup ## Build the wheel into dist/
	@rm -f dist/*.whl
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

image: wheel ## Build the image with docker: IMAGE=name:tag, BASE_DIGEST=sha256:...
	docker build --file image/Dockerfile --build-arg BASE_DIGEST=$(BASE_DIGEST) --tag $(IMAGE) .

lock: setup ## Resolve the locks again from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra apprise --extra otel pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra dev pyproject.toml -o requirements-dev.lock

clean: ## Remove what the targets above made in this folder
	rm -rf $(VENV) .mutation dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
