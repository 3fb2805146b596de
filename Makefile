# All targets need Python 3.11 or newer and nothing else: the first one makes .venv and installs
# into it.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
BENCHMARKS := demo ingest loader stage_one.families stage_one.transfer train_step memory \
  stacking.stack_memory features submission stacking.boosting stacking.calibration \
  stacking.stack_gain stacking.small_data stacking.small_calibration stacking.weak_models score \
  report faults fuzz scale_out

.PHONY: demo test test-slow bench gpu lint audit clean

demo: $(READY)
	$(BIN)/python run.py demo

# PYTHONUTF8: tests read text as UTF-8 in any locale, as the program does by itself
# (tests/pipeline/test_environment.py)
test: $(READY)
	PYTHONUTF8=1 $(BIN)/python -m pytest -m "not slow" -n 2

# torch, oneDNN and OpenBLAS compute as on an older processor, so that other last bits than those of
# the kept runs' machine fail here and not on the next machine
OLDER_CPU := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Prescott
OF_KEPT_RUNS = $$(grep -lrE 'older_version|kept_runs|\((kept|half)[,)]' tests --include='test_*.py')

# OMP_WAIT_POLICY: otherwise torch's waiting threads keep the cores busy, and the two test processes
# take three times as long
test-slow: $(READY)
	PYTHONUTF8=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m slow -n 2 --dist loadfile \
	  --no-loadscope-reorder
	$(OLDER_CPU) PYTHONUTF8=1 $(BIN)/python -m pytest -m "not slow" -n 2 $(OF_KEPT_RUNS)

bench: $(READY)
	@missed=; for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name || missed="$$missed $$name"; \
	done; test -z "$$missed" || { echo "missed:$$missed"; exit 1; }

gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu.gpu_checks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# licences of what is installed, and known vulnerabilities where their database can be reached;
# -rs prints the reason where it cannot
audit: $(READY)
	ICH_AUDIT=1 $(BIN)/python -m pytest tests/project/test_audit.py -q -rs

clean:
	rm -rf .venv

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)
