# Each target sets up what it needs: a .venv with exactly what requirements.txt locks, made once.
# On a machine with more than one Python:      make test PYTHON=python3.12
# For a CPU build of torch, at first set-up:   make test TORCH_INDEX=<address of the package index with CPU builds>

ARGS  ?=
JOBS  ?= 2
IMAGE ?= anomaly-detection:v1
BUILD ?=
RAW   ?=
FILE  ?=
PORT  ?= 5000
TORCH_INDEX ?=
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

PY    := .venv/bin/python
READY := .venv/ready
TORCH  = $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
UV     = $(shell sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.txt)
SLOW  := rfc3987-syntax  # jsonschema does without; importing it takes seconds in every process that reads a notebook
LOCK   = $(PY) -m uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-emit-package torch --quiet

LOCKED := sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' requirements.txt

MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE  # imports of the big packages take twice as long without compiled files
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup pipeline test check lab serve score mlflow report image bench fuzz lint format gallery architecture lock

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

setup: $(READY)  ## only make the environment, .venv

pipeline: $(READY)  ## raw transactions to an exported model; ARGS="…" goes to run_pipeline.py
	@$(PY) run_pipeline.py $(ARGS)

test: $(READY)  ## all tests that need pip only; ARGS="…" goes to pytest, JOBS=2 processes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

check: test  ## make test, then what needs chromium, Docker or many minutes
	@for tool in chromium docker; do \
		command -v $$tool >/dev/null || echo "$$tool is not installed: the checks that need it will fail"; done
	@docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || \
		echo "docker compose is not installed: the checks that need it will fail"
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
		echo "PostgreSQL is not installed: the checks that need it will fail"
	@echo "Now the checks that need chromium, Docker, PostgreSQL or many minutes"
	@$(PY) -m pytest -m check $(ARGS) || test $$? -eq 5  # 5: there are none

lab: $(READY)  ## JupyterLab on the project's folder, with the first notebook open
	@$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" $(ARGS) notebooks/01_eda.ipynb

serve: $(READY)  ## the prediction API on port 8000, with the bundle in serve/model; settings by environment
	@$(PY) -m serve $(ARGS)

score: $(READY)  ## alerts of FILE=… with their reasons, and whether the model is still good
	@test -n "$(FILE)" || { echo "Name the table of transactions: make score FILE=…"; exit 2; }
	@$(PY) -m lib.production.scoring "$(FILE)" $(ARGS)

mlflow: $(READY)  ## MLflow's pages on mlflow.db, and where candidates are compared; PORT=5000
	@$(PY) -m lib.registry.mlflow_pages --port $(PORT) $(ARGS)

report: $(READY)  ## open the newest run's page and print where it is
	@page=$$(ls -t reports/2*/index.html 2>/dev/null | head -n 1); \
	test -n "$$page" || { echo "no run has ended yet: make pipeline"; exit 1; }; \
	echo "$(CURDIR)/$$page"; $(PY) -c 'import pathlib, sys, webbrowser; \
		webbrowser.open(pathlib.Path(sys.argv[1]).resolve().as_uri())' "$$page" >/dev/null 2>&1 || true

image:  ## build the container and let it answer once; needs Docker and an exported bundle; BUILD="…" goes to docker build
	@docker build -t $(IMAGE) -f Dockerfile.prod $(BUILD) .
	@$(PYTHON) tests/image.py --smoke $(IMAGE)

bench: $(READY)  ## times and figures of the whole pipeline; RAW=FILE adds the real transactions
	@$(PY) benchmarks/pipeline.py $(if $(RAW),--raw $(RAW)) $(ARGS)

fuzz: $(READY)  ## broken input for the server and the bundle loader
	@$(PY) benchmarks/fuzz.py $(ARGS)

lint: $(READY)  ## ruff, notebooks too, and mypy
	@$(PY) -m ruff check --quiet --output-format concise
	@$(PY) -m ruff format --quiet --check
	@$(PY) -m mypy --no-error-summary

format: $(READY)  ## let ruff rewrite what make lint complains of
	@$(PY) -m ruff check --quiet --fix
	@$(PY) -m ruff format --quiet

gallery: $(READY)  ## the notebooks of the latest run as Markdown with figures, in docs/gallery
	@$(PY) docs/gallery.py $(ARGS)

architecture: $(READY)  ## the picture and the table of docs/architecture.md, from the code
	@$(PY) docs/draw_architecture.py

lock: $(READY)  ## write the locks and environment.yml anew from pyproject.toml; UPGRADE=1 takes newer versions
	@$(LOCK) pyproject.toml $(if $(UPGRADE),--upgrade) --all-extras --output-file requirements.txt
	@$(LOCK) pyproject.toml --constraint requirements.txt --output-file requirements-serve.txt
	@$(LOCK) $(if $(UPGRADE),--upgrade) --group mlflow-server --constraint requirements.txt \
		--output-file requirements-mlflow.txt
	@$(LOCK) pyproject.toml --extra pipeline --extra cluster --extra torch --constraint requirements.txt \
		--output-file requirements-engine.txt
	@$(PY) .ci/environment.py > environment.yml.part && mv environment.yml.part environment.yml
	@$(MAKE) setup

# A set-up that was interrupted left no file `ready`: it starts over. With a new lock only what differs is installed.
$(READY): requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it by PYTHON=…"; exit 1; }
	@test -e $@ || { echo "Setting up .venv, once: a few minutes"; $(PYTHON) -m venv --clear .venv; }
	@test ! -e $@ || { echo "requirements.txt has changed since .venv was set up; what differs is installed:"; \
		$(LOCKED) | diff .venv/locked - 2>/dev/null | sed -n 's/^</  until now/p; s/^>/  from now on/p'; }
	@rm -f $@
	@$(PY) -m pip install --quiet $(UV) || echo "uv is not to be had here: pip alone takes longer"
	@$(PY) -m uv pip install --quiet --python $(PY) --compile-bytecode --require-hashes -r requirements.txt \
		|| $(PY) -m pip install --quiet --require-hashes -r requirements.txt
	@$(PY) -m pip uninstall --quiet --yes $(SLOW)
	@echo "  … and $(TORCH)"
	@$(PY) -m pip install --quiet $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(PY) -c 'import sysconfig, pathlib; pathlib.Path(sysconfig.get_path("purelib"), "project.pth").write_text("../../../..\n")'
	@$(LOCKED) > .venv/locked
	@touch $@
