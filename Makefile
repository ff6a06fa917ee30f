# Everything a developer or a CI run does. On a fresh clone python3 (3.11 or newer) and make are
# enough: each target sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Set up once for each content of these two files, whatever their times say.
STAMP := $(VENV)/.set-up-$(shell cat requirements.lock pyproject.toml | cksum | tr ' ' '-')

# `make lock` keeps the pins that still fit; `make lock LOCK_FLAGS=--upgrade` moves all of them.
LOCK_FLAGS ?=
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header $(LOCK_FLAGS)
PART := $(LOCK) --constraints requirements.lock

# The tests of one kind of site alone: make test-site SITE=ssh.
SITE ?=
TESTS_OF_ssh := tests/ssh tests/ssh_gate
TESTS_OF_slurm := tests/slurm
TESTS_OF_azure := tests/azure_arm tests/azure_gate
TESTS_OF_docker := tests/testbed/test_docker.py tests/containers tests/image

# What builds images, and with which further options:
# make image IMAGE_FLAGS='--build-arg BASE=registry.lab/python:3.12-slim'
DOCKER ?= docker
IMAGE_FLAGS ?=
# A target of the Dockerfile and what its image is called.
IMAGES := core=skyport-core ssh-gate=skyport-ssh-gate azure-gate=skyport-azure-gate skyport=skyport
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

# How often `make soak` kills, and what its chance begins with: make soak KILLS=2000 SEED=7.
KILLS ?= 100
SEED ?= 1

# Of fuzzing: seconds for each reader, and the names of readers (all of them if it is empty).
SECONDS ?= 60
TARGET ?=

# Any further arguments of pytest: make test TEST_FLAGS='-k cancel -x'.
TEST_FLAGS ?=
# Tests mostly wait for something: two processes are not too many for two cores. A file of tests stays in one.
PROCESSES ?= 2

# A folder with recordings of Azure, which `make check` compares the stand-in for it with if it is given.
RECORDINGS ?=

# Of make kill-matrix: worlds side by side, one site or scenario or all, which part of the cases, or one by name.
WORLDS ?= 2
SCENARIO ?=
SHARE ?= 1/1
CASE ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup system-packages proto proto-check lint security format types boundaries test test-site check check-shapes \
	image test-image fuzz bench demo demo-azure soak kill-matrix lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv from requirements.lock, with this checkout installed editable
	@:

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@echo "setting up $(VENV) (about a minute the first time)"
	@rm -f $(VENV)/.set-up-*
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

system-packages: ## Look for what the tests need of the system; root installs it, others are told
	@sh tools/system_packages.sh tests/system-packages.txt

proto: $(STAMP) ## Generate the stubs in skyport/ from protos/
	@$(BIN)/python tools/gen_protos.py

proto-check: $(STAMP) ## Lint the protos, look for breaking changes and for stubs out of date
	@$(BIN)/buf lint protos
	@$(BIN)/buf build protos --output /dev/null
	@for image in $(wildcard protos/released/*.binpb); do \
		echo "breaking changes since $$image"; \
		$(BIN)/buf breaking protos --against "$$image" || exit 1; \
	done
	@$(BIN)/python tools/gen_protos.py --check

lint: $(STAMP) ## Look for mistakes and for code that is not formatted
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo 'run `make format`' >&2; exit 1; }

security: $(STAMP) ## Look for what an attacker could use (bandit)
	@# Shown only when it found something: it also warns of each # nosec that one of two rules needs.
	@told=$$($(BIN)/bandit --quiet --recursive --configfile pyproject.toml . 2>&1) || { \
		echo "$$told" | grep -v '^\[tester\]' >&2; exit 1; }

format: $(STAMP) ## Format the code and mend what can be mended safely
	@$(BIN)/ruff check --quiet --fix --exit-zero
	@$(BIN)/ruff format

types: $(STAMP) ## Check the types (mypy, strict)
	@$(BIN)/mypy

boundaries: $(STAMP) ## Check which package may import which
	@$(BIN)/lint-imports --no-logo

test: system-packages $(STAMP) ## Run the tests, in so many processes: make test PROCESSES=1
	@$(if $(TEST_FLAGS),$(BIN)/pytest,$(BIN)/python tools/run_tests.py) \
		--numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

test-site: system-packages $(STAMP) ## Run the tests of one kind of site: make test-site SITE=ssh
	@test -n "$(TESTS_OF_$(SITE))" || { \
		echo 'say which one: $(foreach name,$(filter TESTS_OF_%,$(.VARIABLES)),make test-site SITE=$(name:TESTS_OF_%=%))' >&2; \
		exit 2; }
	@$(BIN)/pytest $(TESTS_OF_$(SITE)) $(TEST_FLAGS)

image: ## Build the project's images, of the core and of the gates (docs/docker.md)
	@for each in $(IMAGES); do \
		echo "building $${each#*=}:$(VERSION)"; \
		$(DOCKER) build --target "$${each%%=*}" --tag "$${each#*=}:$(VERSION)" --tag "$${each#*=}:latest" \
			--build-arg VERSION="$(VERSION)" --build-arg REVISION="$(REVISION)" $(IMAGE_FLAGS) . || exit 1; \
	done

test-image: system-packages $(STAMP) ## Build the images by an engine of its own, and run jobs with them
	@$(BIN)/pytest tests/image $(TEST_FLAGS)

check-shapes: system-packages $(STAMP) ## Compare the stand-in for Azure with recordings: make check-shapes RECORDINGS=...
	@$(BIN)/python -m tests.testbed.azure_arm.shapes check $(RECORDINGS)

check: system-packages lint security types proto-check boundaries $(if $(RECORDINGS),check-shapes) test ## Everything that CI runs

fuzz: $(STAMP) ## Fuzz what reads others' text, SECONDS for each reader: make fuzz SECONDS=600
	@$(BIN)/python -m tests.fuzz $(SECONDS) $(TARGET)

bench: $(STAMP) ## Run the benchmarks
	@$(BIN)/python -m bench

demo: $(STAMP) ## Run a job from submit to result, on this machine, with the SSH gate's local site
	@sh tools/demo.sh

demo-azure: system-packages $(STAMP) ## Run a job on two machines of a stand-in for Azure, from a login to nothing left
	@$(BIN)/python -m tools.demo_azure

soak: system-packages $(STAMP) ## Kill core and gates at random under load: make soak KILLS=2000 SEED=7
	@$(BIN)/python -m tests.crash.soak --kills $(KILLS) --seed $(SEED)

kill-matrix: system-packages $(STAMP) ## Kill core and gates at every point: make kill-matrix WORLDS=2 SHARE=1/1
	@$(BIN)/python -m tests.crash.matrix --worlds $(WORLDS) --share $(SHARE) $(if $(SITE),--site $(SITE)) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(CASE),--case '$(CASE)')

lock: $(STAMP) ## Write requirements.lock, and its parts for images, anew from pyproject.toml
	@$(LOCK) pyproject.toml --all-extras --group build --output-file requirements.lock
	@$(PART) pyproject.toml --extra metrics --output-file requirements-runtime.lock
	@$(PART) pyproject.toml --extra metrics --extra ssh --output-file requirements-ssh.lock
	@$(PART) pyproject.toml --extra metrics --extra azure --output-file requirements-azure.lock
	@$(PART) --group wheel --output-file requirements-wheel.lock

clean: ## Remove .venv, caches and what was built
	@rm -rf $(VENV) .fuzz build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
