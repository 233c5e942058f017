# The speed comparison, included by the root Makefile.
#   make bench                 the whole run, about nine minutes; writes docs/benchmarks.md and its chart
#   make bench ARGS=--quick    a small run of everything, about two minutes; a look, not a result
#   make bench ARGS="--only agentbus --only raw-read"

bench:
	@$(PYTHON) .ci/bootstrap.py bench || echo 'The peers could not be installed: measuring without them.' >&2
	@$(PYTHON) -m benchmarks --output docs/benchmarks.md $(ARGS)
