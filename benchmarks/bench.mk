# The speed comparison. Included by the root Makefile, which sets PYTHON and makes its environment.
#   make bench              the whole run, writes docs/benchmarks.md and docs/benchmarks.svg
#   make bench ARGS=--quick a small run of everything

BENCH_ENV := .venv-bench

# The marker is named after the pinned list, so that a changed list rebuilds the environment.
$(BENCH_ENV)/.made: benchmarks/peers.txt
	$(PYTHON) -m venv --clear $(BENCH_ENV) || $(PYTHON) -m virtualenv --clear $(BENCH_ENV)
	$(BENCH_ENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	touch $@

.PHONY: bench
bench: $(BENCH_ENV)/.made
	$(PYTHON) -m benchmarks --output docs/benchmarks.md $(ARGS)
