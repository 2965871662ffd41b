# Two commands matter: `make repro` (the main job) and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin

# Nothing here calls home.
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
export ORT_DISABLE_TELEMETRY := 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup repro test deep lint pretrain clean

help:  ## Say what can be made.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.installed  ## Install everything, from uv.lock.

.venv/.installed: uv.lock pyproject.toml
	@command -v uv >/dev/null || test -x .uv/bin/uv || \
	for python in python3 python3.13 python3.12 python3.11; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
		$$python -m venv .uv && .uv/bin/pip install --quiet uv==$(UV_VERSION) && break; \
	done; \
	command -v uv >/dev/null || test -x .uv/bin/uv || { echo "make: no Python >= 3.11 that can make a virtual environment and fetch uv (on Debian also python3-venv)" >&2; exit 1; }
	$(UV) sync --frozen --all-extras
	@touch $@

repro: setup  ## The main job: sample, validate, train, evaluate, register, de-identify the samples.
	dvc repro
	deid run data/samples out/samples --method swap
	deid run data/samples out/samples-adversarial --method adversarial
	@echo
	@echo "Report:   reports/index.html"
	@echo "Pictures: out/samples (swap), out/samples-adversarial"
	@echo "Runs:     $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db"

test: setup lint  ## Lint, types and tests; minutes.
	pytest -m "not slow"

deep: setup  ## The slow tests: small pipelines from clone to champion, schedules, packages.
	pytest -m slow

lint: setup  ## Lint and types.
	ruff check .
	ruff format --check .
	mypy

pretrain: setup  ## Train the mini world's own networks again (hours; not needed for anything else).
	cd data/mini/pretrain && dvc repro

clean:  ## Remove what the pipeline made, keep the environment.
	rm -rf data/latents* data/validation* data/stage_* data/registered.json reports out mlflow.db mlartifacts
