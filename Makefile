# `make demo` shows TSQ, `make test` tests it. Both install what they need: see README.md, and INSTALL=0 there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find tsq -name "*.pyx" -o -name "*.pxd" -o -name "*.h")
COMPILED := $(subst /,.,$(patsubst %.pyx,%,$(filter %.pyx,$(SOURCES))))

# Where the programs begin that work on other systems than Linux, too.
PORTABLE := $(addprefix tsq/cli/,start.py running.py client.py proofs.py watch.py audit.py keygen.py conformance.py) tsq/client

.PHONY: demo test build lint sim mutants fuzz sanitize bench compare compare-daemons clean

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

# Programs that tests run TSQ against. A test whose program is missing is skipped, and says so.
.PHONY: peers
peers:
	@sh scripts/prerequisites.sh peers

lint: export PATH := $(CURDIR)/$(BIN):$(PATH)
lint: build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check tsq scripts setup.py
	@$(BIN)/cython-lint $(filter %.pyx %.pxd,$(SOURCES)) benchmarks/_load.pyx
	@$(BIN)/mypy
	@$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin $(PORTABLE)
	@$(BIN)/python -m mypy.stubtest $(COMPILED) --allowlist scripts/stubtest-allowlist.txt --ignore-unused-allowlist

# The documentation as a site in build/site, which needs no server: open build/site/index.html. Fails on any warning.
.PHONY: docs
docs: export NO_MKDOCS_2_WARNING = 1
docs: build
	@$(BIN)/python -m mkdocs build --strict --quiet

# A million exchanges in virtual time, with some wrong servers: some minutes; prints a table.
sim: build
	@$(BIN)/python -m tests.simulation $(SIM)

# Make one small change of meaning for each rule; the tests must fail for every one.
mutants: build
	@$(BIN)/python -m tests.mutants $(MUTANTS)

fuzz: build
	@$(BIN)/python -m tests.fuzz --seconds 120
	@$(BIN)/python -m tests.fuzz_packets --seconds 120
	@$(BIN)/python -m tests.fuzz_control --seconds 120
	@$(BIN)/python -m tests.fuzz_rest
	@TSQ_SEEDS=4000 $(BIN)/python -m pytest tests/dataplane/test_differential.py

# Test the compiled code under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: build
	@PYTHON=$(CURDIR)/$(BIN)/python sh scripts/sanitize.sh

# Run the benchmarks and print their ratios to the stored run.
bench: build
	@mkdir -p build
	@$(BIN)/python -m pytest --benchmark-only --benchmark-json=build/bench.json benchmarks
	@$(BIN)/python -m benchmarks.regressions build/bench.json

# Measure TSQ beside NTP, NTS and others, in about fifteen minutes; writes the page and its pictures.
compare: build peers
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group plots
	@$(BIN)/python -m benchmarks.compare --out docs/explanation

# What tsqd costs: CPU time a day, memory, the start; seven minutes.
.PHONY: daemon-cost
daemon-cost: build
	@$(BIN)/python -m benchmarks.daemon_cost $(COST)

# tsqd and chronyd keep the clocks of user-mode Linux guests through the same faults; about forty minutes; prints tables.
compare-daemons: build peers
	@$(BIN)/python -m benchmarks.daemons --poll 0 --settle 100
	@$(BIN)/python -m benchmarks.daemons --poll 4 --settle 200
	@$(BIN)/python -m benchmarks.daemons --poll default --settle 400

# Run tsqd against three servers for an hour, while much of it goes wrong; needs root, for network namespaces.
MINUTES ?= 60
.PHONY: endurance
endurance: build
	@$(BIN)/python -m benchmarks.endurance --minutes $(MINUTES) $(ENDURANCE)

# Run tsq-server with two workers for an hour: floods, churn, key updates, migrations, reloads, new generations, killed workers.
.PHONY: soak
soak: build
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(SOAK)

# A Debian package, made of what .venv has installed, for this machine's Debian; in build/deb.
.PHONY: deb
deb: build
	@sh scripts/prerequisites.sh debian
	@sh scripts/deb.sh build/deb

# The container image as an OCI layout, without an engine, and its bill of materials; in build/image.
.PHONY: image
image: build
	@rm -rf build/image && mkdir -p build/image
	@$(BIN)/python deploy/image/tree.py build/image/tree
	@$(BIN)/python scripts/sbom.py environment --tree build/image/tree >build/image/sbom.cdx.json
	@$(BIN)/python deploy/image/oci.py build/image/tree build/image/layout --sbom build/image/sbom.cdx.json

clean:
	rm -rf $(VENV) build dist *.egg-info
	find tsq benchmarks -name "*.so" -delete
