"""``agentbus bindings``: who gets copies of what; and ``rm``, to end one."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def bindings(
    context: typer.Context,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show the durable wildcards: which agent gets copies of what, how many, and what was refused.

    An agent declares them with `agent.bind("agent.*.status")`. They stay when it stops: its inbox goes on
    collecting copies until somebody unbinds.

    \b
    Examples:
      agentbus bindings
      agentbus bindings --json | jq -r 'select(.refused != {}) | .pattern'
      agentbus bindings rm observer 'agent.*.status'
    """
    from agentbus.cli.bindings_table import show_bindings
    from agentbus.cli.session import run

    if context.invoked_subcommand is None:
        run(lambda: show_bindings(url=url, prefix=prefix, as_json=as_json))


@app.command("rm", short_help="End a binding.")
def remove(
    agent: Annotated[str, typer.Argument(help="The agent that gets the copies.")],
    pattern: Annotated[str, typer.Argument(help="The pattern, in quotes: 'agent.*.status'.")],
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """End a binding; returns when nothing is copied for it any more. Exit code 3 when there is none.

    An agent that declares it puts it back when it is served again: take it out of its code too.

    \b
    Examples:
      agentbus bindings rm observer 'agent.*.status'
    """
    from agentbus.cli.bindings_table import remove_binding
    from agentbus.cli.session import run

    run(lambda: remove_binding(agent, pattern, url=url, prefix=prefix, as_json=as_json))
