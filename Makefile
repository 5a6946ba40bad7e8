PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --constraint $(CONSTRAINTS)

PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-fast test-lowest lint audit ui clean

help: ## show this page
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## set up .venv and train a small net on handwritten digits
	$(BIN)/python -m experiments.run experiment=quickstart

test: test-fast ## run all tests, the fast ones first
	$(PYTEST) -m slow

test-fast: $(VENV)/.tools ## run the tests that start no process: some minutes
	$(PYTEST) -m "not slow"

test-lowest: $(LOWEST).txt ## run all tests with the lowest versions that requirements.txt allows, on Python 3.11
	$(MAKE) test PYTHON=python3.11 VENV=$(LOWEST) CONSTRAINTS=$(LOWEST).txt

$(LOWEST).txt: requirements.txt requirements-dev.txt
	@{ cat requirements.txt; grep '^timm' requirements-dev.txt; } | sed -n 's/^\([a-z0-9-]*\)[>=]=\([0-9.]*\).*/\1==\2/p' > $@

lint: $(VENV)/.tools ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: $(VENV)/.tools ## ask for known vulnerabilities, write docs/dependencies.md
	@$(INSTALL) --quiet pip-audit
	$(BIN)/python docs/audit.py

ui: $(VENV)/.installed ## open the MLflow UI on http://127.0.0.1:5000
	@$(BIN)/python -m experiments.tracking.ui "$(CURDIR)/mlflow.db"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
	$(BIN)/mlflow ui --workers 1 --host 127.0.0.1 --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db"

clean: ## remove .venv and .venv-lowest
	rm -rf $(VENV) $(LOWEST) $(LOWEST).txt

$(VENV)/.installed: requirements.txt $(CONSTRAINTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@if [ -n "$$PIP_EXTRA_INDEX_URL" ]; then torch="from PyPI or the index that PIP_EXTRA_INDEX_URL names"; \
	elif [ "$$(uname -s)" != Linux ]; then torch="without CUDA, about 2 GB in all"; \
	elif [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then torch="with CUDA for the GPU of this machine, 6.6 GB in all"; \
	else torch="with CUDA, 6.6 GB in all: this machine has no NVIDIA GPU, but PyPI has nothing else for Linux.\
	\n  About 2 GB: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make $(MAKECMDGOALS)"; fi; \
	printf 'installing into %s, some minutes; PyTorch %b\n' "$(VENV)" "$$torch"
	@# Debian's python3 may come without ensurepip; the pip that is there then serves the new environment.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.installed requirements-dev.txt
	@echo "installing what tests and checks need: requirements-dev.txt"
	@$(INSTALL) --quiet --requirement requirements-dev.txt
	@$(INSTALL) --quiet --no-deps grad-cam ttach
	@touch $@
