# demo: restore two scenes into demo/              dev:  build .venv and the link that type checkers need
# check: style, types and layers                   test: everything CI runs
# bench: every benchmark (SMOKE=1: small sizes)    docs: rewrite the generated pages
# cluster-demo: an archive on a cluster of this machine, into cluster-demo/
# soak: ten minutes of kills at random (MINUTES=1 SEED=7: others)
#
# Only Python 3.11 or newer and make are needed; the first call builds .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LINK := .dev/tileloom
# A benchmark is a module of benchmarks/; a name that begins with an underscore is shared code.
BENCHMARKS := $(filter-out _%,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

# Torch reads both when it loads: spinning or several threads would fight over the cores the tests share.
export OMP_WAIT_POLICY := PASSIVE
export OMP_NUM_THREADS := 1

.PHONY: demo cluster-demo dev check test soak bench docs

# setuptools comes first, so that the build uses the pinned one instead of fetching its own.
$(READY): pyproject.toml constraints.txt
	@echo "building .venv: the first time, this downloads torch"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt setuptools
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

$(LINK):
	mkdir -p $(@D)
	ln -s .. $@

dev: $(READY) $(LINK)

demo: $(READY)
	$(BIN)/python -m examples.demo

cluster-demo: $(READY)
	$(BIN)/python -m examples.cluster_demo

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tileloom.tiling -p tileloom.models -p tileloom.cluster -p tileloom.jobs
	$(BIN)/lint-imports

test: check
	$(MAKE) bench SMOKE=1
	$(BIN)/pytest -m '' -n 2

soak: $(READY)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

bench: $(READY)
	@missed=; for name in $(BENCHMARKS); do \
		$(BIN)/python -m benchmarks.$$name $(if $(SMOKE),--smoke) || missed="$$missed $$name"; \
	done; test -z "$$missed" || { echo "limits missed:$$missed"; exit 1; }

docs: $(READY)
	$(BIN)/python -m docs.generate
