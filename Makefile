# What a person does with this repository; `make help` lists it. Python 3.11 to 3.13 and ffmpeg are all it needs.

VENV = .venv
CHECKPOINT = embedded
HOST = 127.0.0.1
PORT = 8000
# More arguments for the command behind a target: make test ARGS="tests/service -k health"
ARGS =
# Processes that tests run in; each starts services of its own, in about 4 GiB of memory.
WORKERS = 2

PYTHON_IN_VENV = $(VENV)/bin/python
PINS = pyproject.toml constraints.txt embedded-weights.txt scripts/install.sh
COVERAGE = --cov=shared --cov=trainer --cov=service --cov-report=term

NO_FFMPEG = ffmpeg is missing; install it first (Debian, Ubuntu: sudo apt install ffmpeg; macOS: brew install ffmpeg)

.DEFAULT_GOAL = help
.PHONY: help serve test lint format train-embedded clean ffmpeg

help: ## Show this list
	@echo "make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "serve takes HOST, PORT and CHECKPOINT; test takes WORKERS; every target takes ARGS."
	@echo "Optional: Java, for the METEOR score of trainer evaluate (Debian: default-jre-headless)."

serve: ffmpeg $(VENV)/.can-serve ## Install what serving needs and serve the embedded model on 127.0.0.1:8000
	$(PYTHON_IN_VENV) -m service --checkpoint $(CHECKPOINT) --host $(HOST) --port $(PORT) $(ARGS)

test: ffmpeg $(VENV)/.can-develop ## Install everything and run the tests with coverage
	$(PYTHON_IN_VENV) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(COVERAGE) $(ARGS)

lint: $(VENV)/.can-develop ## Check style and formatting
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .

format: $(VENV)/.can-develop ## Repair style and formatting
	$(PYTHON_IN_VENV) -m ruff check --fix .
	$(PYTHON_IN_VENV) -m ruff format .

train-embedded: $(VENV)/.can-develop ## Train the embedded model anew, from photographs to packaged weights
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash trainer/recipes/embedded.sh $(ARGS)

clean: ## Remove caches and reports; environment and runs stay
	rm -rf .pytest_cache .ruff_cache .coverage .coverage.* htmlcov build dist
	find shared trainer service tests -name __pycache__ -type d -prune -exec rm -rf {} +

ffmpeg:
	@:$(if $(shell command -v ffmpeg 2>/dev/null),,$(error $(NO_FFMPEG)))

$(VENV)/.can-serve: $(PINS)
	@scripts/install.sh $(VENV) service,embedded
	@touch $@

$(VENV)/.can-develop: $(PINS)
	@scripts/install.sh $(VENV) service,trainer,embedded,dev
	@touch $@
