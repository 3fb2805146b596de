# `make demo` and `make test` need Python 3.11 or newer and nothing else: they make .venv and install into it first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
BENCHMARKS := demo ingest loader train_step memory stacking.stack_memory features submission stacking.boosting \
  stacking.calibration stacking.stack_gain score report faults fuzz

.PHONY: demo test test-slow bench lint audit clean

demo: $(READY)
	$(BIN)/python run.py demo

# PYTHONUTF8: the tests read pages and tables as UTF-8 in any locale; the program does so by itself (tests/pipeline/test_environment.py)
test: $(READY)
	PYTHONUTF8=1 $(BIN)/python -m pytest -m "not slow" -n 2

# passive: threads of torch that wait for each other busily take the cores from the other process, which costs a factor of three
test-slow: $(READY)
	PYTHONUTF8=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

bench: $(READY)
	@missed=; for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name || missed="$$missed $$name"; \
	done; test -z "$$missed" || { echo "missed:$$missed"; exit 1; }

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# licences of what is installed, and known vulnerabilities where their database can be reached; -rs says why if it cannot
audit: $(READY)
	ICH_AUDIT=1 $(BIN)/python -m pytest tests/project/test_audit.py -q -rs

clean:
	rm -rf .venv

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)
