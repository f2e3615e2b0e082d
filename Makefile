# make demo and make test are all a fresh machine needs: they build .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ssa-analyze-ready

.PHONY: demo test test-full check lint types test-floors benchmark docs clean

demo: $(READY)
	$(BIN)/ssa-analyze demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# with all the draws and worlds of the tests that make fewer of them on every run
test-full: $(READY)
	SSA_FULL_TESTS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY) lint types test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# the oldest versions of everything that setup.py allows
test-floors:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 is needed: make test-floors PYTHON=python3.10" if sys.version_info[:2] != (3, 10) else 0)'
	$(MAKE) test PYTHON=$(PYTHON) VENV=.venv-floors CONSTRAINTS="-c tests/floors.txt"

# pass options with ARGS="--data-root DIR --json"
benchmark: $(READY)
	@for file in benchmarks/*.py; do case $$file in */common.py|*/pyhessian_failures.py) ;; *) $(BIN)/python $$file $(ARGS) || exit 1;; esac; done

# the pages as HTML, with a reference of the package and of the command line, in build/docs
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

$(READY): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("ssa-analyze needs Python 3.10 or newer; name one with make PYTHON=python3.12 ..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]" $(CONSTRAINTS)
	@# what pip left out, on all processors instead of one; tests of packages, and templates that are no Python, stay as they are
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	touch $(READY)

clean:
	rm -rf .venv .venv-floors demo build dist *.egg-info
