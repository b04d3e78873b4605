# Everything here works on a fresh Debian machine (12 or newer) as root; see `make help`.

# what the lab runs on the machine itself; all the rest runs in the nodes' image
PACKAGES := buildah debian-archive-keyring e2fsprogs gcc libc6-dev mmdebstrap python3-venv rsync skopeo socat
# what virtual machines as nodes need besides (make test-vm)
VM_PACKAGES := busybox-static qemu-system-x86
PYTHON := python3
BIN := .venv/bin

# labs and the cache are shared by all targets
.NOTPARALLEL:

.PHONY: help setup test test-unit test-model test-e2e test-faults-sample test-faults test-vm bench-podman \
  crds model lint format demo recording clean

help:
	@echo 'make setup      everything that the other targets need, into .venv and ~/.cache/transship'
	@echo 'make demo       a lab, a container moved under load by editing its resource, and what happened'
	@echo 'make test       setup, lint and all tests'
	@echo 'make test-unit  the tests that need neither root nor a lab'
	@echo 'make test-model the handover, explored by machine as far as a minute goes'
	@echo 'make model      the same, explored further (many minutes)'
	@echo 'make test-faults  every fault at every step of a move (hours; it goes on where it was)'
	@echo 'make test-vm    a move between two virtual machines, whose kernels track changes by soft-dirty'
	@echo 'make bench-podman  the same container moved by Transship and by podman: both blackouts'
	@echo 'make recording  the picture of the README, recorded anew on a lab (a minute or so)'
	@echo 'make crds       crds/, docs/api.md and the placements'\'' policy anew, from the models'
	@echo 'make lint       ruff, mypy and the import contracts'
	@echo 'make clean      remove what these targets made in this folder'

setup:
	@cd operator && $(PYTHON) -m transship.lab.prepare $(PACKAGES) $(EXTRA_PACKAGES)

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --progress-bar=off --editable '.[dev]'
	touch $@

test: setup lint test-unit test-model test-e2e test-faults-sample

test-unit: .venv/.installed
	$(BIN)/pytest tests/unit

test-model: .venv/.installed
	$(BIN)/pytest tests/model

# These check the invariants of a move: one failure is a failure.
STRICT := tests/e2e/test_move.py tests/e2e/test_ways_back.py

# On a busy machine a lab may miss a deadline: at most five of the other tests may need a second try,
# alone in a new lab. The last lines name each of them, with its first failure.
test-e2e: setup
	$(BIN)/pytest $(STRICT)
	$(BIN)/python tests/e2e/second_try.py tests/e2e $(STRICT:%=--ignore=%)

model: .venv/.installed
	$(BIN)/pytest tests/model

# What must never happen is looked for in these: one failure is a failure.
STRICT := tests/e2e/test_move.py tests/e2e/test_ways_back.py

# On a busy machine a lab may miss a deadline: what failed of the others is tried once more, alone in
# a new lab, and has to pass there. The first failure stays in the output.
test-e2e: setup
	$(BIN)/pytest $(STRICT)
	$(BIN)/pytest tests/e2e $(STRICT:%=--ignore=%) || \
	  $(BIN)/pytest tests/e2e $(STRICT:%=--ignore=%) --last-failed --last-failed-no-failures none

model: .venv/.installed
	PYTHONPATH=operator:tests $(BIN)/python -m model

# One case of each fault, chosen by a seed that is printed: make test-faults-sample FAULTS='--seed N'
test-faults-sample: setup
	PYTHONPATH=operator:tests $(BIN)/python -m faults.run --sample --labs 2 --name sample $(FAULTS)

# Hours; goes on where it was. FAULTS='--step Decide --fault killed --strategy PreCopy --again'
test-faults: setup
	PYTHONPATH=operator:tests $(BIN)/python -m faults.run --labs 2 --publish $(FAULTS)

# two kernels, by qemu without hardware's help: slow, and not a part of `make test`
test-vm: EXTRA_PACKAGES := $(VM_PACKAGES)
test-vm: setup
	$(BIN)/pytest tests/vm

# podman gets into the nodes of this lab alone. make bench-podman BENCH='--runs 3 --memory 64Mi --json'
bench-podman: setup
	PYTHONPATH=operator:tests $(BIN)/python -m bench.run $(BENCH)

crds: .venv/.installed
	$(BIN)/python -m transship.api.crd.generate

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: setup
	$(BIN)/transship demo

# The picture of the README, from a session on a lab of its own. RECORDING='--name other'
recording: EXTRA_PACKAGES := tmux
recording: setup
	PYTHONPATH=operator:docs $(BIN)/python -m recording.record $(RECORDING)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find operator tests -name __pycache__ -prune -exec rm -rf {} +
