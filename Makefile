# `make` prints the targets. Every target that needs .venv makes it first (scripts/setup.sh), so a bare
# clone needs no other command. PYTHON=/path/to/python3.12 chooses the interpreter.

SHELL := /bin/bash
# The tests and the demo call `fastdeit` and `python` by name. Not exported as a whole: set-up must
# look for an interpreter outside .venv.
IN_VENV := export PATH="$$PWD/.venv/bin:$$PATH"

.PHONY: help setup ready test test-all fast format lint demo gpu wheel clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

setup:  ## make .venv, and try again what an earlier set-up left out (FFCV, DALI)
	@bash scripts/setup.sh --retry

ready:
	@bash scripts/setup.sh

format: ready  ## put all code into ruff's form
	@$(IN_VENV); ruff check --fix -q .; ruff format .

lint: ready  ## ruff and mypy
	@$(IN_VENV); ruff check . && mypy && mypy --config-file tests/mypy.ini

# Three files at a time, for much of a test is a program that starts or waits; more would not fit on
# one GPU. In the order of their names: integration is longest, and comes first.
test: ready  ## ruff, mypy and the tests; PYTEST_ARGS="-k crops -x" goes to pytest
	@$(IN_VENV); scripts/lint_and.sh pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-all:  ## the same with the tests for the night: hundreds of kills, whole ablations and benchmarks
	@FASTDEIT_NIGHTLY=1 $(MAKE) test

fast: ready  ## for the loop of a developer: ruff and the quick unit tests, about a minute
	@$(IN_VENV); ruff check . && pytest -n 2 --dist worksteal -q -m "not slow" tests/unit $(PYTEST_ARGS)

demo: ready  ## sample data, conversion, training, evaluation, benchmark; SHORT=1 for the short one
	@$(IN_VENV); scripts/demo.sh

# Not after `ready`: a GPU machine may have no network, and an environment of its own.
gpu:  ## on a GPU: its tests and every benchmark, rows kept, report; WITHIN=8m OUT=bench-gpu
	@scripts/gpu.sh --within $(or $(WITHIN),8m) --out $(or $(OUT),bench-gpu) $(GPU_ARGS)

wheel: ready  ## dist/: what pip installs
	@$(IN_VENV); python -m pip wheel -q --no-deps --wheel-dir dist .

clean:  ## remove what was built, .venv and the demo's output
	rm -rf .venv build dist demo demo-short *.egg-info .mypy_cache .ruff_cache .pytest_cache
