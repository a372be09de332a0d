# Everything that is done to a checkout. `make run` and `make test` need only Python 3.11 or newer, a C compiler
# and make; they set up the rest in a virtual environment inside the checkout, and redo only what has changed.
#
#   make test PYTHON=python3.13 VENV=path   use another interpreter and virtual environment
#   make test SNAKEPIT_DEBUG=1              build the core with the protocol points, at which tests stop and kill
#   make test ARGS='-k crash -x'            arguments for pytest, the benchmarks or the example
#   make test JOBS=0                        all tests in pytest's own process; else a number of them, or "auto"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= auto
SNAKEPIT_DEBUG ?= 0

export SNAKEPIT_DEBUG
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A run of the tests starts thousands of interpreters: none of them is to compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq
MODE := $(if $(filter 1,$(SNAKEPIT_DEBUG)),debug,release)
CORE := $(wildcard snakepit/_core/*.pyx snakepit/_core/*.pxd)
CHECKED := $(wildcard snakepit examples benches tests)

# Stamps lie in the checkout, one set for each virtual environment: a fresh clone that meets an old environment
# installs itself into it, and `make clean` is enough to have everything built again.
STAMPS := build/stamps/$(subst /,_,$(abspath $(VENV)))
INSTALLED := $(STAMPS)/installed
BUILT := $(STAMPS)/built-$(MODE)

.DELETE_ON_ERROR:
.PHONY: help build install run test bench faults soak check format clean

help:
	@echo "make run      the example report, in a pool"
	@echo "make test     the test suite"
	@echo "make bench    the benchmarks, beside the alternatives"
	@echo "make faults   kill workers at every named point of the protocol, in a debug build of its own"
	@echo "make soak     ten minutes of random tasks, kills and replacements"
	@echo "make check    format, lint, types"
	@echo "make format   format the code and sort its imports"
	@echo "make build    the compiled core and an editable install"
	@echo "make install  that, and whatever the tests and the checks need"
	@echo "make clean    remove what was built, but not the virtual environment"

build: $(BUILT)
	@:

install: $(BUILT) $(STAMPS)/extra-test $(STAMPS)/extra-dev
	@:

run: $(BUILT)
	@$(PY) -m examples.stdlib_report $(ARGS)

test: $(BUILT) $(STAMPS)/extra-test
	@$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

bench: $(BUILT) $(STAMPS)/extra-bench
	@$(PY) -m benches $(ARGS)

# In a copy, so that the checkout keeps its release build.
faults: $(BUILT) $(STAMPS)/extra-test
	@mkdir -p build/faults
	@cp -a setup.py pyproject.toml README.md LICENSE snakepit tests build/faults/
	@rm -f build/faults/snakepit/_core/*.so
	@cd build/faults && SNAKEPIT_DEBUG=1 $(abspath $(PY)) setup.py --quiet build_ext --inplace
	@cd build/faults && $(abspath $(PY)) -m tests.faults.protocol $(ARGS)

soak: $(BUILT) $(STAMPS)/extra-test
	@$(PY) -m tests.faults.soak $(ARGS)

check: $(BUILT) $(STAMPS)/extra-dev
	@status=0; \
	$(PY) -m ruff format --check . || status=1; \
	$(PY) -m ruff check . || status=1; \
	$(PY) -m mypy $(CHECKED) || status=1; \
	$(VENV)/bin/cython-lint --no-pycodestyle $(CORE) || status=1; \
	exit $$status

format: $(STAMPS)/extra-dev
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --select I --fix .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find snakepit -name '*.so' -delete
	find snakepit examples benches tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is %d.%d; Snakepit needs Python 3.11 or newer: make PYTHON=..." % sys.version_info[:2])'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(VENV)/pyvenv.cfg pyproject.toml setup.py
	@echo "installing into $(VENV)"
	@mkdir -p $(STAMPS)
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(STAMPS)/requires
	@$(PIP) -r $(STAMPS)/requires
	@$(PIP) --no-build-isolation -e '.[cli,progress]'
	@touch $@

# An extra's requirements are read from what is installed, so that asking for more does not build again.
$(STAMPS)/extra-%: $(INSTALLED)
	@echo "installing what '$*' needs"
	@$(PIP) 'snakepit-pool[$*]'
	@touch $@

# The two modes share the modules' names: the other mode's must go first, or a newer one would be kept.
$(BUILT): $(INSTALLED) $(CORE)
	@echo "building the core ($(MODE))"
	@if [ -n "$(filter-out $(BUILT),$(wildcard $(STAMPS)/built-*))" ]; then \
		rm -f $(STAMPS)/built-* snakepit/_core/*$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	fi
	@$(PY) setup.py --quiet build_ext --inplace
	@touch $@
