# Every target sets up what it needs; `make setup` repeats nothing that is up to date.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

DEMO_DIR ?= ./.demo
ADMIN_PORT ?= 2580
METRICS_PORT ?= 2581

.PHONY: setup demo run test test-network test-ops check format bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python -m tests.demo --dir "$(DEMO_DIR)" --admin-port $(ADMIN_PORT) --metrics-port $(METRICS_PORT)

run: setup
	$(BIN)/chive-indexer run --config config/indexer.example.toml

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not network and not ops" --ignore=tests/ops

test-network: setup
	tests/interop/network/install.sh .network
	$(BIN)/python -m pytest -m network tests/interop

test-ops: setup
	for tool in systemd-analyze promtool chromium; do \
		command -v $$tool >/dev/null || missing=yes; \
	done; \
	if [ "$$missing" ]; then apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install --no-install-recommends systemd prometheus chromium; fi
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ops]'
	$(BIN)/python -m pytest -m ops tests/ops

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.bench

docs: setup
	$(BIN)/python -m tests.evidence

clean:
	rm -rf $(VENV) .demo .bench .soak build *.egg-info
