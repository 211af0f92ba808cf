# `make` sets up an environment in .venv and runs the default preset; `make help` lists the rest.
# An environment of your own: make VENV=path/to/environment, or activate it and type `snakemake`.
VENV ?= .venv
PYTHON ?= python3
CONFIG ?= config/config.yaml
# As it was typed: neither make nor the shell looks for commands in it.
override CONFIG := $(value CONFIG)
export CONFIG
CLUSTER_TESTS ?= tests/cluster
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := run
.PHONY: run plan setup test test-cluster failed lock format clean help

run: $(READY) ## set up and run the default preset (another one: make CONFIG=config/presets/fashion.yaml)
	@test -f "$$CONFIG" || { echo "CONFIG: there is no file $$CONFIG"; exit 1; }
	@start=$$(date +%s); \
	echo "Running $$CONFIG: training, figures, report. Progress: 'n of m steps done'."; \
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/snakemake --configfile "$$CONFIG" && \
	run=$$($(BIN)/python -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["run"])' "$$CONFIG") && \
	echo "Report: figures/$$run/report.html  (make took $$(( $$(date +%s) - start )) s)"

plan: $(READY) ## say what a preset would take (make plan CONFIG=config/presets/paper.yaml)
	@test -f "$$CONFIG" || { echo "CONFIG: there is no file $$CONFIG"; exit 1; }
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/snakemake plan --nolock --configfile "$$CONFIG" --quiet host progress rules

setup: $(READY) ## set up the environment only

test: $(READY) ## set up and run all tests
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile

test-cluster: $(READY) ## start a real Slurm of one node (as root, on Debian or Ubuntu) and test on it
	tests/cluster/slurm.sh start
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest $(CLUSTER_TESTS)

failed: $(READY) ## list the cells that failed in the latest run, with the ends of their logs
	@$(BIN)/python -m nonsmooth.failed

lock: $(READY) ## resolve the dependencies of pyproject.toml anew into requirements.txt
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras --no-header \
	  --no-emit-index-url pyproject.toml -o requirements.txt

format: $(READY) ## format Python and Snakemake files
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/snakefmt Snakefile workflow/rules

clean: ## say what could be deleted, and how much it would free
	@echo "Nothing was deleted. To free space, remove what you do not need of:"
	@du -sh figures/*/ logs results .snakemake $(VENV) 2>/dev/null || true
	@echo "figures/ and logs/ are remade in a minute, $(VENV) by make setup. results/ and .snakemake/ belong"
	@echo "together: they are the trained cells and the record of how; delete both or none."

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV): about 6 GB with PyTorch, a few minutes."
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
