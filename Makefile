# Every target works on a fresh clone: Python 3.11 or newer is all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -qq --disable-pip-version-check --require-hashes --only-binary :all:

.PHONY: run test lint fmt bench soak prices sdk-examples e2e-real lock clean

run: $(VENV)/.run
	@exec $(BIN)/python manage.py serve

# The tests mostly wait for gateways that start and answer: more workers than a small machine has cores make sense.
# In the order of the folders, so that the short files of unit/ come last and no worker ends with a long one alone.
WORKERS ?= 4
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=3

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

# Three replicas under load. Larger: make soak SOAK_REQUESTS=100000 SOAK_STREAMS=10000 SOAK_OUTAGE_S=60
soak: $(VENV)/.dev
	TOLLGATE_TESTS_REQUIRE_SERVICES=1 $(BIN)/python -m pytest tests/soak -s

# The prices that come with the gateway, from genai-prices. A second opinion: PRICES='--litellm FILE'.
prices: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python tests/prices/build_seed.py $(PRICES)

# The examples of docs/sdk.md by the library as pip installs it, in an environment and a folder of their own.
SDK := $(abspath $(VENV))/sdk
sdk-examples:
	@$(PYTHON) -m venv --clear $(SDK)
	@$(SDK)/bin/pip install -qq --disable-pip-version-check ".[sdk]"
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cp -r tests docs README.md "$$folder" && \
		cd "$$folder" && $(SDK)/bin/python -m tests.sdk.examples

# A real inference server with a tiny random model. It is built from source: a C and C++ compiler, and some minutes once.
REAL := $(abspath $(VENV))/real
REAL_PIP := $(REAL)/bin/pip install -qq --disable-pip-version-check --require-hashes

e2e-real: $(VENV)/.dev $(REAL)/.done
	REAL_SERVER_PYTHON=$(REAL)/bin/python $(BIN)/python -m pytest tests/real

$(REAL)/.done: constraints-real.txt constraints-real-source.txt | $(VENV)/.dev
	@command -v $${CC:-cc} >/dev/null && command -v $${CXX:-c++} >/dev/null || \
		{ echo "make e2e-real needs a C and a C++ compiler (CC, CXX) to build llama-cpp-python" >&2; exit 1; }
	@test -x $(REAL)/bin/python || $(PYTHON) -m venv $(REAL)
	@echo "Building the inference server in $(REAL) ..."
	@$(REAL_PIP) --only-binary :all: -r constraints-real.txt
	@PATH="$(REAL)/bin:$$PATH" CMAKE_ARGS=-DLLAVA_BUILD=OFF \
		$(REAL_PIP) --no-deps --no-build-isolation -r constraints-real-source.txt
	@touch $@

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

# Renews the locks from pyproject.toml: all versions and hashes, no address of an index.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header
lock:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet uv
	$(LOCK) pyproject.toml --upgrade -o constraints.txt
	$(LOCK) pyproject.toml --group dev -c constraints.txt -o constraints-dev.txt
	$(LOCK) --group real --upgrade --no-emit-package llama-cpp-python -o constraints-real.txt
	$(LOCK) --group real-source --upgrade --no-deps -o constraints-real-source.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
