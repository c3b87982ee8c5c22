# make quickstart   virtual environment, install, 36 images from the shipped bundle
# make test         the same environment with the test tools; lint, types, import rules, tests
# make audit        known weaknesses of the packages that are installed
# make constraints  constraints.txt: the versions that are installed
# make faults       what clusters do to a run, done to a real Ray of this machine (tests/README.md)
# make scale        what grows with actors and shards; make speed: what the engine costs beside the model
# make gpu          the first eight minutes on a GPU, into out/gpu-day; small where there is none
PYTHON ?= python3
VENV   ?= .venv
WORKERS ?= 2
BIN    := $(VENV)/bin
# packages are compiled as they are used, once: where this is set, in every process again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test suite alone numeric faults scale speed gpu check lint format audit constraints clean

quickstart: $(VENV)/.installed
	$(BIN)/xreal-synth generate recipes/quickstart.yaml

# what needs Ray mostly waits for it: the rest is done meanwhile
test: $(VENV)/.installed-dev
	$(MAKE) -j3 check suite numeric
	$(MAKE) alone

suite: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not alone" --ignore tests/faults

alone: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m alone tests/scale

numeric: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -m numeric tests/training tests/models tests/sampling tests/golden

faults: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/faults

scale: $(VENV)/.installed-dev
	$(BIN)/python -m tests.scale simulate
	$(BIN)/python -m tests.scale sick
	$(BIN)/python -m tests.scale played
	$(BIN)/python -m tests.scale actors
	$(BIN)/python -m tests.scale dataset

speed: $(VENV)/.installed-dev
	$(BIN)/python -m tests.speed
	$(BIN)/python -m tests.speed.rows
	$(BIN)/python -m tests.speed.goals

gpu: $(VENV)/.installed-dev
	$(BIN)/python -m tests.gpu_day --out out/gpu-day

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# known weaknesses of the packages installed, whole and at their versions; asks a vulnerability service
audit: $(VENV)/.installed-dev
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > build/audit/installed.txt
	build/audit/bin/pip-audit --requirement build/audit/installed.txt --no-deps --disable-pip

# after `make test` has passed with newer packages; the image (cluster/docker) is built with these versions
constraints: $(VENV)/.installed-dev
	mkdir -p build
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable) > build/constraints.txt
	mv build/constraints.txt constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache
