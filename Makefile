# make demo    events, two trained models, a server and its answers, in less than three minutes after installation
# make test    every test
# make soak    runs killed at thirty random moments each, more seeds, a server under load for minutes, fuzzing for 30 minutes
# make lint    style and types
# make bench   what we claim about speed
# make clean   remove what the others made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test soak lint bench clean

demo: $(VENV)/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/htautau/demo.sh

# Two processes; each of their threads would wait for those of the other.
test: $(VENV)/.test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(VENV)/.test
	@OMP_NUM_THREADS=1 MLAAS4HEP_KILLS=30 $(BIN)/python -m pytest --timeout=3600 tests/test_run.py tests/test_hep_resnet.py -k killed
	@OMP_NUM_THREADS=1 MLAAS4HEP_SEEDS=3 $(BIN)/python -m pytest --timeout=3600 tests/test_htautau.py -k networks
	@MLAAS4HEP_SECONDS=60 $(BIN)/python -m pytest --timeout=3600 tests/test_load.py
	@$(PIP) --editable '.[fuzz]' || echo "fuzzing without coverage"
	@MLAAS4HEP_FUZZ_SECONDS=1800 $(BIN)/python -m pytest -s --timeout=7200 tests/test_fuzz.py

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

$(VENV)/.demo: setup.py constraints.txt mlaas4hep/kernel.cpp | $(VENV)/bin/python
	@echo "Installing what the demo needs into $(VENV); this takes a few minutes the first time"
	@$(PIP) --editable '.[keras,torch,server,plot]'
	@touch $@

$(VENV)/.test: setup.py constraints.txt mlaas4hep/kernel.cpp | $(VENV)/bin/python
	@echo "Installing everything into $(VENV); this takes a few minutes the first time"
	@$(PIP) --editable '.[all,test]'
	@touch $@ $(VENV)/.demo
