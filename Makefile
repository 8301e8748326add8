# Every target is self-sufficient on a fresh clone: Python 3.11 or newer is all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -qq --disable-pip-version-check --require-hashes --only-binary :all:

.PHONY: run test lint fmt bench lock clean

run: $(VENV)/.run
	@exec $(BIN)/python manage.py serve

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python tests/bench/run.py $(BENCH)

# The run-time lock is a part of the development lock, so either can be installed first.
$(VENV)/.run: constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Tollgate's packages into $(VENV) ..."
	@$(INSTALL) -r constraints.txt
	@touch $@

$(VENV)/.dev: constraints-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the development packages into $(VENV) ..."
	@$(INSTALL) -r constraints-dev.txt
	@touch $@ $(VENV)/.run

# Writes both locks anew from pyproject.toml: all versions and hashes, no index address.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header pyproject.toml
lock:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet uv
	$(LOCK) --upgrade -o constraints.txt
	$(LOCK) --group dev -c constraints.txt -o constraints-dev.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
