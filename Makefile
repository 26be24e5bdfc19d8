# napari-attention3d: `make demo`, `make test`; the rest is for those who change it.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
# Tests compute on small volumes: more threads only wait for each other.
OMP_NUM_THREADS ?= 1
# Processes that share the test files among them; 0 runs all in one.
TEST_PROCESSES ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SCREEN := scripts/with-screen.sh

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-oldest coverage mutants audit check bench docs pictures check-wheel system-libs clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(VENV)/.installed-all system-libs  ## segment a real brain scan and show it
	$(BIN)/napari-attention3d demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev system-libs  ## run the tests
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(SCREEN) $(BIN)/python -m pytest -m "not long" \
		-n $(TEST_PROCESSES) --dist loadfile $(TEST_ARGS)

# Each goes on where it was stopped, with its journal in build/long; `make clean` begins anew.
LONG := OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(SCREEN) $(BIN)/python
test-long: $(VENV)/.installed-dev system-libs  ## run what takes minutes to hours; goes on when stopped
	@mkdir -p build/long
	$(LONG) scripts/long_tests.py build/long/tests.jsonl $(TEST_ARGS)
	$(LONG) benchmarks/fuzz.py --mutants 5000 --json build/long/fuzz.json
	$(LONG) benchmarks/kill_training.py --kills 50 --journal build/long/kills.jsonl
	$(LONG) benchmarks/faults.py --json build/long/faults.json
	$(LONG) benchmarks/soak.py --cycles 500 --json build/long/soak.jsonl

test-oldest: system-libs  ## the same with the oldest packages that pyproject.toml allows
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install -q uv
	build/uv/bin/uv venv -q --clear --python $(PYTHON) build/oldest
	build/uv/bin/uv pip install -q --python build/oldest/bin/python --resolution lowest-direct \
		--override oldest-overrides.txt -e ".[all,test]"
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(SCREEN) build/oldest/bin/python -m pytest -m "not long" \
		-n $(TEST_PROCESSES) --dist loadfile $(TEST_ARGS)

coverage: $(VENV)/.installed-dev system-libs  ## which branches the tests take
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(SCREEN) $(BIN)/python -m pytest -m "not long" -q \
		-n $(TEST_PROCESSES) --dist loadfile --cov=napari_attention3d --cov-branch \
		--cov-report= --cov-report=json:build/coverage.json $(TEST_ARGS)
	$(BIN)/python scripts/branch_coverage.py build/coverage.json

mutants: $(VENV)/.installed-dev  ## do the tests see small faults in the central code?
	$(BIN)/python -m pip install -q "mutmut>=3.8"
	$(BIN)/python scripts/mutants.py run
	$(BIN)/python scripts/mutants.py left

audit:  ## known weaknesses of the pinned packages (asks the network)
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install -q pip-audit
	build/audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

check: $(VENV)/.installed-dev  ## style, types, who imports whom, the manifest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari.yaml
	$(SCREEN) $(BIN)/npe2 validate napari-attention3d --imports

bench: $(VENV)/.installed-dev system-libs  ## measure: each script in benchmarks/
	@set -e; for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(SCREEN) $(BIN)/python $$script $(BENCH_ARGS); \
	done

docs: $(VENV)/.installed-docs  ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(VENV)/.installed-all system-libs  ## take the documentation's pictures again
	$(SCREEN) $(BIN)/python scripts/screenshots.py
	$(SCREEN) $(BIN)/python scripts/inspect_pictures.py

check-wheel: $(VENV)/.installed-dev  ## build wheel and sdist, install the wheel elsewhere, look inside
	scripts/check-wheel.sh $(BIN)/python

system-libs:
	@scripts/system-libs.sh

clean:  ## remove what the above made, but for the virtual environment
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e ".[$*]"
	@touch $@
