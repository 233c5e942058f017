# Everything here works on a machine with Python 3.11 or newer and make; the rest is set up when needed.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# What makes .venv: the first of these that is new enough. make INTERPRETER=/path/to/python test picks one.
INTERPRETER ?= python3 python3.14 python3.13 python3.12 python3.11
# The Python of .venv, which runs everything else.
PYTHON := .venv/bin/python

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo '  Options go into ARGS: make test ARGS="-k priority -x", make demo ARGS=--plain'

.PHONY: demo
demo: environment-run ## A coordinator and four analysts review the standard library, with a crash
	@$(PYTHON) -m examples.stdlib_review $(ARGS)

TEST_PROCESSES ?= 2

.PHONY: test
test: environment-develop ## All tests; AGENTBUS_TEST_SERVER picks the server they run on
	@$(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist worksteal $(ARGS)

.PHONY: check
check: environment-develop ## Lint, format, types and layers
	@echo '== ruff check: lint' && $(PYTHON) -m ruff check .
	@echo '== ruff format: layout' && $(PYTHON) -m ruff format --check .
	@echo '== mypy: types' && $(PYTHON) -m mypy -p agentbus -p workers -p examples -p benchmarks -p tests.chaos
	@echo '== import-linter: layers' && PYTHONPATH=. .venv/bin/lint-imports

.PHONY: format
format: environment-develop ## Rewrite the sources as `make check` wants them
	@$(PYTHON) -m ruff check --fix-only --quiet . && $(PYTHON) -m ruff format .

.PHONY: chaos
chaos: environment-develop ## The long reliability run; writes docs/reliability.md
	@$(PYTHON) -m tests.chaos $(ARGS)

.PHONY: bench
bench: environment-develop ## Measure, beside other libraries and raw Redis; writes docs/benchmarks.md
# The recipe is in there; its own environment is made with the Python of .venv.
-include benchmarks/bench.mk
.venv-bench/.made: | environment-develop

.PHONY: clean
clean: ## Remove the environments and everything that tools left behind
	@rm -rf .venv .venv-bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .ci/bootstrap.py decides by content, not by time stamps, whether there is anything to do.
.PHONY: environment-run environment-develop
environment-run environment-develop: environment-%:
	@for python in $(INTERPRETER); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
		then exec $$python .ci/bootstrap.py $*; fi; \
	done; \
	echo 'set-up: Python 3.11 or newer is needed; none of these is it: $(INTERPRETER)' >&2; exit 1
