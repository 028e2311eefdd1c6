# Each target sets up what it needs: nothing has to be typed before `make run` or `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXAMPLES := hyper_cleaning ridge_hpo data_valuation language_model_valuation

.PHONY: run test lint types imports examples docs install clean help

help:
	@echo "make run       train the first example"
	@echo "make test      run all tests"
	@echo "make lint      ruff: rules and formatting"
	@echo "make types     mypy"
	@echo "make imports   directions of imports between the rooms"
	@echo "make examples  compile, draw and run every example"
	@echo "make docs      build the documentation into docs/_build/html"
	@echo "make clean     remove $(VENV) and everything that was built"

run: $(STAMP)
	$(BIN)/betty run examples/hyper_cleaning/spec.yaml

# One thread for each of two workers: the tensors are small, and threads would only wait for one another. A worker that
# is done takes over half of what is left to the other.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

examples: $(addprefix example-,$(EXAMPLES))

example-%: $(STAMP)
	rm -rf build/examples/$*
	mkdir -p build/examples
	$(BIN)/betty compile examples/$*/spec.yaml --render build/examples/$*.svg
	$(BIN)/betty run examples/$*/spec.yaml --out build/examples/$*

docs: $(STAMP)
	$(BIN)/python -m sphinx -b html -aE -W --keep-going docs docs/_build/html

install: $(STAMP)

# Installed again only when what is declared has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "betty needs Python 3.11, 3.12 or 3.13; $(PYTHON) is not one. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV); the first time takes some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	@# By all cores at once, and what is here too; some files of other packages are written for other Pythons.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib betty tests >/dev/null 2>&1 || true
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
