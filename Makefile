# Two commands do everything: `make demo` and `make test`. Both set up .venv first, from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 8501

.PHONY: demo test check bench docs clean install

install: $(STAMP)

# Installed anew when what is to be installed changed; a broken install leaves no stamp.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "router-workbench needs Python 3.11 or newer; say PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,offload]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/probe demo --port $(PORT)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

# Everything that is generated, anew: pages from the declarations, findings and pictures from a fresh recording.
docs: $(STAMP)
	mkdir -p build
	rm -f build/docs.duckdb
	$(BIN)/probe families --check --write docs/families.md
	$(BIN)/python -m probes.metrics.document
	$(BIN)/python -m probes.interventions.document
	$(BIN)/probe families --check --interventions --write docs/interventions.md
	$(BIN)/python -m store.reference > docs/sql.md
	$(BIN)/probe demo --no-serve --out build/docs.duckdb
	$(BIN)/python docs/findings.py build/docs.duckdb
	$(BIN)/python docs/effects.py
	$(BIN)/python docs/screenshots.py build/docs.duckdb --choose tokens:token=14

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
