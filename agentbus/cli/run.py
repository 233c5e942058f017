"""``agentbus run``: serve agents."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import Prefix, Url


def run_agents(
    targets: Annotated[
        list[str], typer.Argument(help="module:agent, where agent is an Agent or a list of them.")
    ],
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, help="Processes to serve in.")] = 1,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error; to stderr.")] = "info",
    url: Url = None,
    prefix: Prefix = None,
) -> None:
    """Import agents from the current directory and serve them.

    SIGTERM or Ctrl-C drains: no more is taken, what runs is finished, the rest is handed back. A second one
    no longer waits. With several processes, one that dies unexpectedly is started again, with pauses.

    \b
    Examples:
      agentbus run tasks:reviewer
      agentbus run tasks:reviewer tasks:planner --processes 4
      agentbus run tasks:reviewer --url redis://broker:6379 --log-level warning
    """
    from agentbus.cli.serving import RunPlan, serve_here
    from agentbus.cli.session import run
    from agentbus.cli.supervisor import supervise

    plan = RunPlan(tuple(targets), url, prefix, log_level)
    if processes == 1:
        run(lambda: serve_here(plan))
    run(lambda: supervise(plan, processes))
