"""``agentbus agents``: which agents there are, what they can do, and whether they are there."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_Name = Annotated[str, typer.Argument(help="reviewer, or agent.reviewer.")]


@app.callback()
def agents(
    context: typer.Context,
    agent_type: Annotated[str | None, typer.Option("--type", help="Only agents of this type.")] = None,
    capability: Annotated[
        str | None, typer.Option("--capability", help="Only agents that can do this.")
    ] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show every known agent: type, capabilities, and whether a process serves it now.

    An agent is known from the first time it was served until it is forgotten; it is online while a process
    of it was seen within three of its beats (one a minute unless its settings say otherwise).

    \b
    Examples:
      agentbus agents
      agentbus agents --capability review --json | jq 'select(.online) | .name'
      agentbus agents show reviewer
    """
    from agentbus.cli.agents_table import show_agents
    from agentbus.cli.session import run

    if context.invoked_subcommand is None:
        run(lambda: show_agents(agent_type, capability, url=url, prefix=prefix, as_json=as_json))


@app.command("show", short_help="Show one agent with its processes.")
def show(name: _Name, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Show one agent: type, capabilities, and the processes that serve it.

    Exit code 3 when it is not known.
    """
    from agentbus.cli.agents_table import show_agent
    from agentbus.cli.session import run

    run(lambda: show_agent(name, url=url, prefix=prefix, as_json=as_json))


@app.command("forget", short_help="Take an agent out that will not come back.")
def forget(name: _Name, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Take an agent out that will not come back. Its inbox stays as it is.

    One that is served now is back with its next beat. Exit code 3 when it is not known.
    """
    from agentbus.cli.agents_table import forget_agent
    from agentbus.cli.session import run

    run(lambda: forget_agent(name, url=url, prefix=prefix, as_json=as_json))
