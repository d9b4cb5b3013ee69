# From a fresh clone with Python >= 3.11 and make: `make demo`, `make test`.  Each builds .venv when it is missing or old.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test check docs results bench gpu faults freeze clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(STAMP)  ## Build the environment in .venv (about 6.4 GB, 3 to 5 minutes)

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than Python 3.11; run make PYTHON=python3.11 (or newer)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup  ## The whole benchmark on generated street scenes (4 to 9 minutes on 2 cores)
	$(BIN)/s4al run toy_s4al_plus --out runs/demo

test: setup  ## The default tests in four processes, which wait for processes of their own
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

check: setup  ## Format, lint, types, import contracts, and the documentation's links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: setup  ## The documentation as a site in build/site, its reference made anew
	$(BIN)/python docs/make_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

results: setup  ## Tables, numbers and figures of README.md and docs/ from docs/results/records
	$(BIN)/python docs/make_results.py

bench: setup  ## Throughput and memory, ratios measured side by side
	$(BIN)/python -m benchmarks.performance

gpu: setup  ## A lent GPU's minutes: tests, rows of CamVid, bench; goes on where it ended (make gpu DATA=...; DRY=1 tries it)
	$(BIN)/python -m benchmarks.performance.gpu $(if $(DRY),--dry --out runs/gpu-dry) $(if $(DATA),--data $(DATA)) $(ARGS)

faults: setup  ## The long fault tests, several hours: kills, full disks, power cuts, flipped bits, with and without Ray, nodes that share a bucket
	$(BIN)/python -m tests.faults.harness --out runs/faults
	$(BIN)/python -m tests.faults.ray_harness --out runs/faults
	$(BIN)/python -m tests.faults.nodes --out runs/faults
	$(BIN)/python -m tests.faults.soak --out runs/faults

freeze: setup  ## Renew constraints.txt from the environment
	@{ head -2 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## Remove the environment and caches; runs and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
