# One command each for the demo, the tests and the measurements. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?=
# Test files are shared out over so many processes; WORKERS=0 runs them in one.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types tests bench bench-gpu readme-table gpu-check clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "taemi needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch goes first and alone: any looser request lets the index choose a build of several gigabytes.
$(VENV)/.installed-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing torch (once; constraints.txt pins what was tested)"
	@$(PIP) torch==2.13.0
	@echo "installing taemi for training, export and inference on a CPU"
	@$(PIP) --editable '.[cpu,train,export,bench,demo]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-run
	@echo "installing the test tools"
	@$(PIP) --editable '.[dev]'
	@$(PIP) '.[rtx]' --dry-run >/dev/null 2>&1 && $(PIP) --editable '.[rtx]' \
		|| echo "SKIPPED: tensorrt-rtx has no wheel for this platform; the tests that build plans with it are skipped"
	@$(PIP) --no-deps --target $(VENV)/tensorrt-stubs tensorrt-stubs==10.13.0.35.1 \
		|| echo "SKIPPED: tensorrt-stubs cannot be had; the test that checks the plan code's types with it is skipped"
	@touch $@

demo: $(VENV)/.installed-run  ## The whole way on synthetic clips: train, export, verify, infer, measure
	@$(BIN)/taemi demo --out demo

test: $(VENV)/.installed-test  ## Lint, types and tests
	@$(MAKE) --no-print-directory lint types tests

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

tests: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# Ray is half a gigabyte that nothing else needs.
$(VENV)/.installed-ray: $(VENV)/.installed-test
	@echo "installing Ray"
	@$(PIP) --editable '.[ray]' \
		|| echo "SKIPPED: ray has no wheel for this platform; the tests of a cluster are skipped"
	@touch $@

test-all: $(VENV)/.installed-test $(VENV)/.installed-ray  ## Every test, the slow ones too: published sizes, three seeds, long clips
	@$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.installed-run  ## Measure the demo's bundle on this machine's CPU
	@test -d demo/demo.taemi || $(MAKE) --no-print-directory demo
	$(BIN)/taemi-bench run demo/demo.taemi --device cpu --json benchmarks/results/cpu.json \
		--markdown benchmarks/results/cpu.md --csv benchmarks/results/cpu.csv --html benchmarks/results/cpu.html

readme-table: $(VENV)/.installed-run  ## Write README's and the guide's tables anew from benchmarks/results
	$(BIN)/python -m taemi_bench.readme_table

# Uses the Python that is active, not $(VENV): a GPU machine has its own torch, CUDA and TensorRT.
gpu-check:  ## Record whatever can be run on this machine's GPU (under 9 minutes)
	PYTHONPATH=.:export:runtime:benchmarks $(PYTHON) -m taemi_bench.gpu_check --out benchmarks/results --build-pycuda

# Uses the active Python, too. Never executed so far.
bench-gpu:  ## Measure this machine's GPU at published size, plans and all; fills README's row of its model
	PYTHONPATH=.:export:runtime:benchmarks $(PYTHON) -m taemi_bench.gpu_bench --out benchmarks/results --work build/gpu-bench
	PYTHONPATH=.:export:runtime:benchmarks $(PYTHON) -m taemi_bench.readme_table

clean:  ## Remove the environment and everything that the targets made
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
