# make demo       events, two trained models, a server and its answers, in less than three minutes after installation
# make test       all tests but the slow ones
# make test-fast  those of them that load no framework and start no process
# make soak       the slow tests: runs killed at thirty random moments each, and interrupted at six, more seeds, a server
#                 under load for minutes, fuzzing for 30 minutes
# make lint       style and types
# make bench      what we claim about speed
# make clean      remove what the others made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNEL := mlaas4hep/kernel.cpp mlaas4hep/kernel_pages.cpp mlaas4hep/kernel_shared.h
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-fast soak lint bench clean

demo: $(VENV)/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/htautau/demo.sh

# Each of two processes has one thread, since threads of both would wait for each other. Bytecode is kept, or each of the
# hundreds of processes would compile the package again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest
IN_TWO_PROCESSES := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.test
	@$(PYTEST) $(IN_TWO_PROCESSES) -m "not slow"

test-fast: $(VENV)/.test
	@$(PYTEST) $(IN_TWO_PROCESSES) -m "not slow and not framework and not process"

soak: $(VENV)/.test
	@$(PIP) --editable '.[fuzz]' || echo "fuzzing without coverage"
	@$(PYTEST) -s -m slow --timeout=3600

lint: $(VENV)/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.test
	@$(BIN)/python benchmarks/bench_reading.py
	@$(BIN)/python benchmarks/bench_training.py

clean:
	rm -rf $(VENV) demo tfaas_models mlaas4hep_model hists build dist bench_training.jsonl *.egg-info mlaas4hep/_kernel*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.py constraints.txt $(KERNEL) | $(VENV)/bin/python
	@echo "Installing what the demo needs into $(VENV); this takes a few minutes the first time"
	@$(PIP) --editable '.[keras,torch,server,plot]'
	@touch $@

$(VENV)/.test: setup.py constraints.txt $(KERNEL) | $(VENV)/bin/python
	@echo "Installing everything into $(VENV); this takes a few minutes the first time"
	@$(PIP) --editable '.[all,test]'
	@touch $@ $(VENV)/.demo
