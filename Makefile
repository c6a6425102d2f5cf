# Lucid LLM: from a bare machine to a running service. `make help` lists the targets.
#
# Everything is made once and remembered by stamp files in the virtual environment; llama.cpp's build and the model
# downloads live in the user's cache folder and are shared by clones.

PYTHON ?= python3
# Options for build_llama.sh, e.g. LLAMA_OPTIONS="--cuda --cuda-arch 90".
LLAMA_OPTIONS ?=
# Arguments for pytest, e.g. PYTEST_ARGS="tests/engine -x".
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PACKAGES := $(wildcard llama_native engine knowledge server bench)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
EXTENSION_SOURCES := $(wildcard llama_native/_build.py llama_native/decl/* llama_native/shim/*.[ch]* llama_native/kernels/*.[ch]*)

# Prints the requirements of the sections of pyproject.toml that are named as arguments.
define REQUIREMENTS
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    content = tomllib.load(file)
sections = {"build": content["build-system"]["requires"], "run": content["project"]["dependencies"]}
sections |= content["project"]["optional-dependencies"]
print("\n".join(line for name in sys.argv[1:] for line in sections[name]))
endef
export REQUIREMENTS

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve build models gemma tools test lint lock audit clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

serve: build models  ## build what is missing, fetch the demo models, start the service on 127.0.0.1:8080
	@exec $(BIN)/python -m server

build: $(STAMPS)/extension  ## virtual environment, llama.cpp and the extension

models: $(STAMPS)/packages  ## put the demo models into model/
	@$(BIN)/python model/fetch.py

gemma: $(STAMPS)/packages  ## also fetch Gemma 3 270M, a sliding-window model that some tests use
	@$(BIN)/python model/fetch.py --gemma

tools: $(STAMPS)/packages  ## llama.cpp's own programs for benchmarks; prints where they are
	@PYTHON=$(BIN)/python ./build_llama.sh --tools $(LLAMA_OPTIONS)

test: build models $(STAMPS)/test-packages  ## run the test suite
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

lint: build $(STAMPS)/test-packages  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=model $(BIN)/mypy $(PACKAGES) model setup.py

# The locks of the image: the newest versions that pyproject.toml allows, by content, for every platform. The build's own
# packages are in a file of their own, as they do not stay in the image.
lock: $(STAMPS)/packages  ## pin the image's Python packages by hash, at their newest versions
	@$(PIP) install uv
	@for part in "build" "run documents nvml otel postgres"; do \
		$(BIN)/python -c "$$REQUIREMENTS" $$part | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
			--generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
			--output-file deploy/$$(test "$$part" = build && echo build || echo run).lock -; \
	done

audit: $(STAMPS)/packages  ## ask PyPI for known vulnerabilities of the locked packages (needs pypi.org)
	@$(PIP) install pip-audit
	@$(BIN)/pip-audit --require-hashes --disable-pip --requirement deploy/run.lock --requirement deploy/build.lock

clean:  ## remove what was made in this folder, except the models; the user's cache stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf tests/*/node/node_modules vendor/llama.cpp/source
	rm -f llama_native/_native.c llama_native/*.so llama_native/*.o llama_native/shim/*.o llama_native/kernels/*.o
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What pip and venv would report at length, in one line and before anything is downloaded.
$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; apt-get install python3 python3-venv python3-dev" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; apt-get install python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "make: Python.h was not found; apt-get install python3-dev" >&2; exit 2; }
	@command -v $${CXX:-c++} >/dev/null || { echo "make: no C++ compiler was found; apt-get install g++" >&2; exit 2; }
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: pyproject.toml | $(STAMPS)/venv
	@echo "installing Python packages (half a minute)"
	@$(BIN)/python -c "$$REQUIREMENTS" build run models documents > $(STAMPS)/requirements.txt
	@$(PIP) install -r $(STAMPS)/requirements.txt
	@touch $@

$(STAMPS)/test-packages: pyproject.toml | $(STAMPS)/packages
	@echo "installing Python packages for tests"
	@$(BIN)/python -c "$$REQUIREMENTS" test bench postgres > $(STAMPS)/test-requirements.txt
	@$(PIP) install -r $(STAMPS)/test-requirements.txt
	@touch $@

# Asked every time, because options, compiler or pin may have changed; the file changes only when the answer does.
$(STAMPS)/prefix: FORCE | $(STAMPS)/packages
	@new=$@.$$$$; PYTHON=$(BIN)/python ./build_llama.sh $(LLAMA_OPTIONS) > $$new || { rm -f $$new; exit 2; }; \
		if cmp -s $$new $@; then rm $$new; else mv $$new $@; fi

$(STAMPS)/extension: $(STAMPS)/packages $(STAMPS)/prefix $(EXTENSION_SOURCES) setup.py
	@echo "compiling the extension of llama_native"
	@rm -f llama_native/_native.*.so
	@prefix=$$(cat $(STAMPS)/prefix) && LLAMA_PREFIX=$$prefix $(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

FORCE:
