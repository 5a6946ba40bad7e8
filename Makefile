PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint ui clean

help: ## show this page
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## set up .venv and train a small net on handwritten digits
	$(BIN)/python -m experiments.run experiment=quickstart

test: $(VENV)/.tools ## run all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.tools ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

ui: $(VENV)/.installed ## open the MLflow UI on http://127.0.0.1:5000
	@$(BIN)/python -m experiments.tracking.ui "$(CURDIR)/mlflow.db"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
	$(BIN)/mlflow ui --workers 1 --host 127.0.0.1 --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db"

clean: ## remove .venv
	rm -rf $(VENV)

$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "installing into $(VENV): some minutes, 5 GB with the CUDA packages"
	@# Debian's python3 may come without ensurepip; the pip that is there then serves the new environment.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.installed requirements-dev.txt
	@$(INSTALL) --requirement requirements-dev.txt
	@$(INSTALL) --no-deps grad-cam ttach
	@touch $@
