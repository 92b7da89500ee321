# `make demo` and `make test` start from a bare clone: they make their own environment in .venv.
# Plain venv and pip: they take a torch build that lies ready on a machine, other tools do not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROCESSES ?= 2
READY := $(VENV)/.ready
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test docs lint perf browser clean
help:
	@echo "make demo   set up, run a small contest, build the page and name the verdict"
	@echo "make test   set up, lint, type-check, run all tests in PROCESSES=2 processes"
	@echo "make docs   write docs/methods.md anew from the methods' declarations"
	@echo "make perf   print the speed and memory ratios"
	@echo "the commands: source $(VENV)/bin/activate, then bench --help"

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/bench sweep --methods none,more_real,random_corpus,prompt_simple,retrieve_text \
		--tasks fashion-5shot,openmoji-5shot --splits 0,1 --budget S
	@$(BIN)/bench site
	@echo "to go on: source $(VENV)/bin/activate, then bench --help"

test: $(READY) browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal

# The page is tested in a real browser. Debian's package is installed where none is found.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		  apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		echo "no Chromium found: the browser tests will be skipped"

perf: $(READY)
	$(BIN)/python perf/startup.py
	$(BIN)/python perf/search.py
	$(BIN)/python perf/generation.py
	$(BIN)/python perf/denoising.py
	$(BIN)/python perf/personalization.py
	$(BIN)/python perf/memory.py
	$(BIN)/python perf/overhead.py

docs: $(READY)
	@$(BIN)/bench docs methods

lint: $(READY)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/mypy

clean:
	rm -rf $(VENV) results site build dist .pytest_cache .mypy_cache .ruff_cache
