# Two commands do all the set-up, from a bare checkout: make demo, make test.
# PYTHON is any Python 3.10 to 3.13; everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint conformance faults frozen poison soak chaos bounds nested sharing hosts damage store bench simulation clean

demo: $(VENV)/demo-installed
	$(BIN)/python examples/randomized_search.py --compare

# Two processes share the modules out, as the tests wait much of the time.
test: $(VENV)/test-installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Someone else's tests: joblib's own suite, and scikit-learn's modules that use joblib.
conformance: $(VENV)/test-installed
	$(BIN)/python conformance/run.py

# Every fault that is promised to be survived, ours beside joblib's bundled backend:
# FAULTS="--rows worker-killed --backends ours" for some of it, "--tls --short" for some
# of it over TLS.
FAULTS ?=
faults: $(VENV)/test-installed
	$(BIN)/python tools/faults.py $(FAULTS)

# The worker that has the last task of a call is frozen: how much later does it end?
frozen: $(VENV)/test-installed
	$(BIN)/python tools/frozen.py

# One task of a thousand kills its worker: are all the others there, and how soon?
poison: $(VENV)/test-installed
	$(BIN)/python tools/poison.py

# Random calls from three threads for SECONDS; every result checked, nothing left behind.
SEED ?= 0
soak: SECONDS ?= 600
soak: $(VENV)/test-installed
	$(BIN)/python tools/soak.py --seconds $(SECONDS) --seed $(SEED)

# Random faults under random calls for SECONDS; nothing lost, wrong, hung, left behind.
# CHAOS=--tls for the same over TLS.
CHAOS ?=
chaos: SECONDS ?= 3600
chaos: $(VENV)/test-installed
	$(BIN)/python tools/chaos.py --seconds $(SECONDS) --seed $(SEED) $(CHAOS)

# A hundred nested grid searches in a row.
nested: $(VENV)/test-installed
	$(BIN)/python tools/nested_searches.py

# Large data: memory and speed, beside loky and the backend that joblib bundles.
sharing: $(VENV)/test-installed
	$(BIN)/python tools/sharing.py

# The same on several hosts, made of network namespaces: needs root and iproute2.
hosts: $(VENV)/test-installed
	$(BIN)/python tools/hosts.py

# Hosts that die or join while a call runs, and /dev/shm of any kind: what comes of it?
damage: $(VENV)/test-installed
	$(BIN)/python tools/damage.py

# Calls with random data, some of whose workers are killed: is the store tidy after?
store: $(VENV)/test-installed
	$(BIN)/python tools/store.py

# Speed, beside loky and the backend that joblib bundles: BENCH="--rounds 1" for less of it.
BENCH ?=
bench: $(VENV)/test-installed
	$(BIN)/python benchmarks/run.py $(BENCH)

# The driver's decisions on a simulated cluster of 10,000 threads.
SIMULATION ?=
simulation: $(VENV)/test-installed
	$(BIN)/python benchmarks/simulation.py $(SIMULATION)

# The suite on the oldest releases that pyproject.toml admits.
bounds:
	$(PYTHON) tools/bounds.py

$(VENV)/demo-installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[examples]'
	touch $@

$(VENV)/test-installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/demo-installed

clean:
	rm -rf $(VENV) .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
