# make demo: the main job. make test: the tests. Both set up what they need in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE_CHECKS ?= --quick
LAYER ?= block_16_project_BN
BUNDLE := build/mobilenet_v2_0.35_96_digits-$(LAYER)
QUIET_PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 $(BIN)/python -m pip install --quiet

.PHONY: demo test test-radio power-cuts ota-kills gateway-attacks meter-hold gateway-hold broker-load lint setup setup-dev clean

demo: setup
	@echo "== Cut MobileNetV2 at $(LAYER) and check every byte"
	@$(BIN)/partition --layer $(LAYER) --output $(BUNDLE) --force
	@echo "== Classify real images with the two halves, in one process"
	@$(BIN)/tinysplit run $(BUNDLE) --save-figure build/demo.png
	@echo "== The same over UDP: two processes, the firmware's C link library, real sockets"
	@$(BIN)/tinysplit run $(BUNDLE) --transport udp

test: setup-dev lint
	@$(BIN)/python -m pytest -n auto --dist loadfile
	@echo "== The C core: tests under ASan and UBSan (CORE_CHECKS= for clang, fuzzing and Xtensa too)"
	@tests/core/run.sh $(CORE_CHECKS)
	@echo "== The firmware's ports (CORE_CHECKS= to compile all of it for Xtensa, too)"
	@PYTHON=$(BIN)/python tests/firmware/run.sh $(CORE_CHECKS)

# Real Bluetooth, 802.11 and network stacks, in a virtual machine; says which packages it needs.
test-radio: setup-dev
	@TINYSPLIT_RADIO=1 $(BIN)/python -m pytest -q -m boots tests/radio
	@$(BIN)/python -m tests.radio

# Every pair of steps of an update and its recovery cut (minutes); `make test` has every single one.
power-cuts:
	@mkdir -p build
	@cmake -S firmware/core -B build/core-power-cuts >build/core-power-cuts.log 2>&1 && \
	    cmake --build build/core-power-cuts --target power_cuts >>build/core-power-cuts.log 2>&1 || \
	    { cat build/core-power-cuts.log; exit 1; }
	@build/core-power-cuts/tests/power_cuts full

# Ten minutes of a software PPK2 at 100 kS/s: no sample lost.
meter-hold: setup-dev
	@TINYSPLIT_LONG=1 $(BIN)/python -m pytest -q tests/host/meters/test_ppk2.py -k ten_minutes

# A gateway with ten heads over mixed transports, 5 % of frames lost, for ten minutes.
gateway-hold: setup-dev
	@test -d $(BUNDLE) || $(BIN)/partition --layer $(LAYER) --output $(BUNDLE)
	@$(BIN)/python -m tests.host.gateway.hold $(BUNDLE)

# Floods, half-open connections, silent heads: what they cost the other heads (five minutes on a quiet machine).
gateway-attacks: setup-dev
	@test -d $(BUNDLE) || $(BIN)/partition --layer $(LAYER) --output $(BUNDLE)
	@$(BIN)/python -m tests.host.gateway.under_attack --bundle $(BUNDLE)

# 200 updates over the air of boards that are killed at random moments (a quarter of an hour).
ota-kills: setup-dev
	@$(BIN)/python -m tests.host.ota.kills 200

# 200 boards at the broker, telemetry every second for half a minute: none lost.
broker-load: setup-dev
	@TINYSPLIT_LONG=1 $(BIN)/python -m pytest -q tests/host/broker/test_load.py

lint: setup-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

setup: $(VENV)/.ready
setup-dev: $(VENV)/.ready-dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "tinysplit needs Python 3.10 or newer, this is %d.%d: make PYTHON=python3.11" % v[:2])'
	@echo "== Make a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv module: apt install python3-venv, or make PYTHON=..."; exit 1; }
	@touch $@

# What the compiled link library depends on.
NATIVE := setup.py $(wildcard firmware/core/src/* firmware/core/include/tinysplit/* host/boards/virtual/*.[ch] host/sim/*.[ch])
NATIVE += host/boards/virtual/build_core.py host/sim/build_sim.py

$(VENV)/.ready: $(VENV)/.python pyproject.toml $(NATIVE)
	@echo "== Install tinysplit with TensorFlow (about 300 MB to fetch, once)"
	@$(QUIET_PIP) --editable '.[convert,plot,boards,ble,air,bench,meters,gateway]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.python pyproject.toml $(NATIVE)
	@echo "== Install tinysplit with TensorFlow, and what the tests need (about 300 MB to fetch, once)"
	@$(QUIET_PIP) --editable '.[convert,plot,boards,ble,air,bench,meters,gateway,dev]'
	@touch $(VENV)/.ready $@

clean:
	rm -rf build $(VENV)
