# make run | test | test-long | lint | docs | bench | results: each makes the environment first, once.
#   make run DATA=path ARGS="..."    DATA becomes --data, ARGS goes to the experiment
#   make test ARGS="..."             ARGS replaces pytest's default arguments
#   make test-long                   drawn tests with ten times their draws, more cases, and
#                                    300 mutants (hours; it goes on where it stopped)
#   make lock                        constraints.txt with hashes, into .ci/locked/, for the environment
#   PYTHON=python3.12                the interpreter that makes the environment in .venv/
#   VENV=none PYTHON=...             use that interpreter's own packages, install nothing

# XLA:CPU's buffers in huge pages, where the system has them: a third less time (docs/training.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DATA ?=

EXTRAS = experiments,test,dev
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

ifeq ($(VENV),none)
PY = $(PYTHON)
READY =
DOCS_READY =
BENCH_READY =
else
PY = $(VENV)/bin/python
READY = $(VENV)/.installed-$(PYTHON_VERSION)
DOCS_READY = $(VENV)/.installed-docs-$(PYTHON_VERSION)
BENCH_READY = $(VENV)/.installed-bench-$(PYTHON_VERSION)
endif

DATA_ARGS = $(if $(DATA),--data $(DATA))
PIP_INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
# Bytecode by all cores, of what is ever imported; pip makes it by one, of all packages' tests too.
# A file that no Python can read stops neither.
COMPILE = $(PY) -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' $(VENV)/lib $(PACKAGES) || true
PACKAGES = shampoo_jax nxtpost_jax hsnn_jax experiments
LOCKED = .ci/locked

.PHONY: help ready run test test-long lint docs bench results lock

help:
	@sed -n '/^# /s/^# //p' Makefile

ready: $(READY)

run: $(READY)
	$(PY) -m experiments.end_to_end $(DATA_ARGS) $(ARGS)

test: export OPENBLAS_NUM_THREADS = 1
test: export NPROC = 32
test: $(READY)
	$(PY) -m pytest $(or $(ARGS),-q -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 10)

test-long: export OPENBLAS_NUM_THREADS = 1
test-long: export NPROC = 32
test-long: export DRAWS = 200
test-long: $(READY)
	$(PY) -m pytest -q -m "long or drawn" $(ARGS)
	$(PY) -m tests.mutants --out mutants.jsonl

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m basedpyright --pythonpath "$$($(PY) -c 'import sys; print(sys.executable)')"

docs: $(DOCS_READY)
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

bench: export OPENBLAS_NUM_THREADS = 1
bench: export NPROC = 32
bench: $(BENCH_READY)
	$(PY) -m experiments.step_time $(ARGS)
	$(PY) -m experiments.index_time

results: $(READY)
	$(PY) -m experiments.digits --keep digits
	$(PY) -m experiments.end_to_end --keep end_to_end $(ARGS)
ifneq ($(DATA),)
	$(PY) -m experiments.end_to_end $(DATA_ARGS) --keep end_to_end-$(notdir $(DATA:/=)) $(ARGS)
endif

lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	for set in ready,$(EXTRAS) docs,docs bench,bench; do \
		extras=$$(echo ",$${set#*,}" | sed 's/,/ --extra /g'); \
		$(VENV)-lock/bin/uv pip compile setup.py $$extras -c constraints.txt \
			-o $(LOCKED)/$${set%%,*}.txt --quiet --upgrade --universal --python-version 3.11 \
			--generate-hashes --no-annotate --custom-compile-command "make lock" || exit 1; \
	done
	rm -r $(VENV)-lock

ifneq ($(VENV),none)
$(READY): setup.cfg $(LOCKED)/ready.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) (Python $(PYTHON_VERSION)): a few minutes, once"
	test -x $(VENV)/bin/python$(PYTHON_VERSION) || $(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) --require-hashes -r $(LOCKED)/ready.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	$(COMPILE)
	touch $@

$(DOCS_READY): $(READY) $(LOCKED)/docs.txt
	$(PIP_INSTALL) --require-hashes -r $(LOCKED)/docs.txt
	$(COMPILE)
	touch $@

$(BENCH_READY): $(READY) $(LOCKED)/bench.txt
	$(PIP_INSTALL) --require-hashes -r $(LOCKED)/bench.txt
	$(COMPILE)
	touch $@
endif
