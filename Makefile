# TSQ: `make demo` shows it, `make test` tests it; both create what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find tsq -name "*.pyx" -o -name "*.pxd" -o -name "*.h")
COMPILED := $(subst /,.,$(patsubst %.pyx,%,$(filter %.pyx,$(SOURCES))))

.PHONY: demo test build lint sim mutants fuzz sanitize bench compare clean

demo: build
	@$(BIN)/python scripts/demo.py

test: build peers
	@$(BIN)/python -m pytest $(TESTS)

build: $(VENV)/.built

$(VENV)/.built: pyproject.toml setup.py $(SOURCES) scripts/prerequisites.sh
	@PYTHON=$(PYTHON) sh scripts/prerequisites.sh build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "make: installing TSQ and its tools into $(VENV) (once; a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

# Foreign programs for the tests, where they can be had; a test that misses its own says so.
.PHONY: peers
peers:
	@sh scripts/prerequisites.sh peers

lint: export PATH := $(CURDIR)/$(BIN):$(PATH)
lint: build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check tsq scripts setup.py
	@$(BIN)/cython-lint $(filter %.pyx %.pxd,$(SOURCES)) benchmarks/_load.pyx
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest $(COMPILED) --allowlist scripts/stubtest-allowlist.txt --ignore-unused-allowlist

# A million exchanges with servers of which some lie, in virtual time: some minutes, and a table.
sim: build
	@$(BIN)/python -m tests.simulation $(SIM)

# A small change of meaning for each rule; the tests must notice every one.
mutants: build
	@$(BIN)/python -m tests.mutants $(MUTANTS)

fuzz: build
	@$(BIN)/python -m tests.fuzz --seconds 120
	@$(BIN)/python -m tests.fuzz_packets --seconds 120
	@$(BIN)/python -m tests.fuzz_control --seconds 120
	@TSQ_SEEDS=4000 $(BIN)/python -m pytest tests/dataplane/test_differential.py

# The compiled parts under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: build
	@PYTHON=$(CURDIR)/$(BIN)/python sh scripts/sanitize.sh

# Compared with the stored run, as ratios.
bench: build
	@mkdir -p build
	@$(BIN)/python -m pytest --benchmark-only --benchmark-json=build/bench.json benchmarks
	@$(BIN)/python -m benchmarks.regressions build/bench.json

# Side by side with NTP, NTS and others, in about ten minutes; writes the page and its pictures.
compare: build peers
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group plots
	@$(BIN)/python -m benchmarks.compare --out docs/explanation

clean:
	rm -rf $(VENV) build dist *.egg-info
	find tsq benchmarks -name "*.so" -delete
