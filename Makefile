# Two commands matter: `make repro` (the main job) and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin

# Without a PROFILE: params.yaml, here. With one: profiles/PROFILE.yaml, in profiles/PROFILE, so that
# no run takes the place of another's results.
PROFILE :=
SETTINGS := $(if $(PROFILE),profiles/$(PROFILE).yaml,params.yaml)
PROJECT := $(if $(PROFILE),profiles/$(PROFILE),.)
WORLD = $(shell sed -n '/^world:/,$$ s/.*[ {]name: *\([a-z]*\).*/\1/p' $(SETTINGS) 2>/dev/null | head -n 1)
SAMPLES = $(CURDIR)/data/$(if $(filter mini,$(WORLD)),samples,photo/samples)
# One pass over a photograph at 1024 px, not eight rotations: the people in the samples stand upright.
LOOK = $(if $(filter mini,$(WORLD)),,--detect-size 1024)
# The longest first: two run at once.
METHODS = adversarial pgd swap fgsm blur pixelate mask

# Compiled modules are kept, or each of a run's many processes would compile the libraries anew.
unexport PYTHONDONTWRITEBYTECODE

# Nothing here calls home.
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
export ORT_DISABLE_TELEMETRY := 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help install setup project repro study test deep lint pretrain heads clean

help:  ## Say what can be made.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .venv/.installed  ## Install everything, from uv.lock.

.venv/.installed: uv.lock pyproject.toml
	@command -v uv >/dev/null || test -x .uv/bin/uv || \
	for python in python3 python3.13 python3.12 python3.11; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
		$$python -m venv .uv && .uv/bin/pip install --quiet uv==$(UV_VERSION) && break; \
	done; \
	command -v uv >/dev/null || test -x .uv/bin/uv || { echo "make: no Python >= 3.11 that can make a virtual environment and fetch uv (on Debian also python3-venv)" >&2; exit 1; }
	$(UV) sync --frozen --all-extras
	@touch $@

setup: install project  ## Install, and fetch the public networks for photographs.
ifneq ($(filter photo,$(WORLD)),)
	@echo "The networks of the world photo are public files under licenses of their own, shown below."
	@echo "Its generator learned from StyleGAN2 FFHQ: NON-COMMERCIAL use only. Whoever makes this accepts"
	@echo "that; PROFILE=mini needs none of these files."
	@deid weights fetch --world photo --accept-license || { \
		echo "make: not all files came. Run it again to resume; or, without a network, put the files named above" >&2; \
		echo "make: into a folder and run: make $(MAKECMDGOALS) DEID_WEIGHTS_DIR=FOLDER; or: make repro PROFILE=mini" >&2; exit 1; }
endif

project:
	@test -f $(SETTINGS) || { echo "make: $(SETTINGS): no such file; choose a PROFILE of: $(basename $(notdir $(wildcard profiles/*.yaml)))" >&2; exit 1; }
ifneq ($(PROFILE),)
	@mkdir -p $(PROJECT)/.dvc $(PROJECT)/data/photo $(PROJECT)/data/ffhq
	@printf '[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n[cache]\n    type = "reflink,hardlink,copy"\n' > $(PROJECT)/.dvc/config
	@ln -sfn ../$(PROFILE).yaml $(PROJECT)/params.yaml
	@for name in dvc.yaml prefect.yaml uv.lock deid flows; do ln -sfn ../../$$name $(PROJECT)/$$name; done
	@ln -sfn ../../../data/mini $(PROJECT)/data/mini
	@for world in photo ffhq; do ln -sfn ../../../../data/$$world/dvc.yaml $(PROJECT)/data/$$world/dvc.yaml; done
endif

repro: setup  ## The main job: sample, validate, train, evaluate, register, de-identify the samples.
	cd $(PROJECT) && dvc repro
	cd $(PROJECT) && printf '%s\n' $(METHODS) | xargs -P 2 -I {} \
		deid run $(SAMPLES) out/samples/{} --method {} --model local --jobs 1 $(LOOK)
	@echo
	@echo "In $(PROJECT):"
	@echo "Report:   reports/index.html"
	@echo "Pictures: out/samples, a folder for each method"
	@echo "Runs:     mlflow ui --backend-store-uri sqlite:///mlflow.db"

study: setup  ## Rivals of the field beside ours, ablations, inversion, into out/study; two hours, resumable.
	test -f out/study/tables/metrics.json || deid evaluate --params profiles/study.yaml \
		--stages deid/worlds/photo/shipped --out out/study/tables --jobs 2
	deid report --params profiles/study.yaml --out out/study/tables
	printf 'benchmarks.%s\n' 'ablations out/study/ablations' 'inversion out/study/inversion' | \
		xargs -L 1 -P 2 python -m

test: install lint  ## Lint, types and tests; minutes.
	pytest -m "not slow"

deep: install  ## The slow tests: small pipelines from clone to champion, schedules, packages.
	pytest -m slow

lint: install  ## Lint and types.
	ruff check .
	ruff format --check .
	mypy

pretrain: install  ## Train the mini world's own networks again (hours; not needed for anything else).
	cd data/mini/pretrain && dvc repro

heads: setup  ## Fit the photo world's heads for 256 and 512 px again, and measure turns, shifts and judges with them.
	python -m deid.worlds.photo.pretrain.heads --sides 256 512
	python -m deid.worlds.photo.pretrain.turns
	python -m deid.worlds.photo.pretrain.shifts
	python -m deid.gate.judges params.yaml

clean:  ## Remove what the pipeline made, keep the environment; of a PROFILE, if one is given.
	cd $(PROJECT) && rm -rf data/latents* data/validation* data/stage_* data/attack* data/registered.json reports out mlflow.db mlartifacts
