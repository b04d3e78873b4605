# Everything here works on a fresh Debian machine (12 or newer) as root; see `make help`.

# programs that the lab runs on the machine itself; all others are in the nodes' image
PACKAGES := buildah debian-archive-keyring e2fsprogs gcc libc6-dev mmdebstrap python3-venv rsync skopeo socat
# further programs for nodes that are virtual machines (make test-vm)
VM_PACKAGES := busybox-static qemu-system-x86
PYTHON := python3
BIN := .venv/bin

# all targets share the labs and the cache
.NOTPARALLEL:

.PHONY: help setup test test-unit test-model test-e2e test-faults-sample test-faults test-vm bench-podman \
  crds model lint format demo recording clean

help:
	@echo 'make setup      install and build everything that the other targets need'
	@echo 'make demo       bring up a lab and move a container under load by editing its resource'
	@echo 'make test       run setup, lint and all tests'
	@echo 'make test-unit  run the tests that need neither root nor a lab'
	@echo 'make test-model explore the model of the handover for a minute'
	@echo 'make model      explore the model of the handover further (many minutes)'
	@echo 'make test-faults  inject every fault at every step of a move (hours; continues where it stopped)'
	@echo 'make test-vm    move between two virtual machines, whose kernels track changes by soft-dirty'
	@echo 'make bench-podman  move the same container by Transship and by podman, and compare the blackouts'
	@echo 'make recording  record the picture of the README anew in a lab (about a minute)'
	@echo 'make crds       generate crds/, docs/api.md and the admission policy from the models'
	@echo 'make lint       run ruff, mypy and the import contracts'
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
STRICT := tests/e2e/test_move.py tests/e2e/test_rollback.py

# On a busy machine a lab may miss a deadline: at most five of the other tests may need a second try,
# alone in a new lab. The last lines name each of them, with its first failure.
test-e2e: setup
	$(BIN)/pytest $(STRICT)
	$(BIN)/python tests/e2e/second_try.py tests/e2e $(STRICT:%=--ignore=%)

model: .venv/.installed
	PYTHONPATH=operator:tests $(BIN)/python -m model

# One case of each fault, chosen by a seed that is printed: make test-faults-sample FAULTS='--seed N'
test-faults-sample: setup
	PYTHONPATH=operator:tests $(BIN)/python -m faults.run --sample --labs 2 --name sample $(FAULTS)

# Takes hours; continues where it stopped. FAULTS='--step Decide --fault killed --strategy PreCopy --again'
test-faults: setup
	PYTHONPATH=operator:tests $(BIN)/python -m faults.run --labs 2 --publish $(FAULTS)

# Two kernels, emulated by qemu: slow, so not a part of `make test`.
test-vm: EXTRA_PACKAGES := $(VM_PACKAGES)
test-vm: setup
	$(BIN)/pytest tests/vm

# Only this lab's nodes have podman. make bench-podman BENCH='--runs 3 --memory 64Mi --json'
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

# Records a session in a lab of its own. RECORDING='--name other'
recording: EXTRA_PACKAGES := tmux
recording: setup
	PYTHONPATH=operator:docs $(BIN)/python -m recording.record $(RECORDING)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find operator tests -name __pycache__ -prune -exec rm -rf {} +
