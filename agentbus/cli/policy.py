"""``agentbus policy``: what is declared for addresses and topics."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Show and declare policies: retries, time to live, limits, history of an address or a topic.

\b
Examples:
  agentbus policy show
  agentbus policy show agent.reviewer
  agentbus policy set reviewer limit=1000 ttl=10m
  agentbus policy set agent.reviewer.task max_retries=5 --replace
  agentbus policy clear agent.reviewer.task
""",
)
_PLACE = "reviewer, agent.reviewer, or a topic such as agent.reviewer.task."


@app.command("show", short_help="Show every declared policy, or what holds in one place.")
def show(
    address: Annotated[str | None, typer.Argument(help=f"{_PLACE} Left out: all that is declared.")] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show what is declared; for one address or topic also what holds where nothing is, and why.

    \b
    Examples:
      agentbus policy show
      agentbus policy show reviewer
      agentbus policy show agent.reviewer.task --json
    """
    from agentbus.cli.policy_table import show_all, show_one
    from agentbus.cli.session import run

    if address is None:
        run(lambda: show_all(url=url, prefix=prefix, as_json=as_json))
    run(lambda: show_one(address, url=url, prefix=prefix, as_json=as_json))


@app.command("set", short_help="Declare a policy.")
def set_policy(
    address: Annotated[str, typer.Argument(help=_PLACE)],
    fields: Annotated[list[str], typer.Argument(metavar="field=value...", help="All fields it is to have.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what is declared, if nobody else does so meanwhile.")
    ] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Declare a policy. One that contradicts what is declared is refused, with both values, unless replaced.

    A policy is declared whole: with --replace, fields that are not named are withdrawn.

    \b
    Fields of an address and of a topic:
      durability=stream|disk|replicated   acknowledgement=handled|none   acknowledgement_timeout=5m
      max_retries=3   retry_delay=30s   when_exhausted=dead|discard   ttl=1h
      max_hops=64   loop_messages=20
    \b
    Of an address only:
      limit=1000000   history_messages=10000   history_age=7d   history_bytes=67108864
      history_outcomes=processed,expired   archive=required|may_lose|never
      dead_limit=100000   dead_age=30d   dead_retries=0   dead_retry_delay=1h
      loop_window=1m
    \b
    Examples:
      agentbus policy set reviewer limit=1000 ttl=10m
      agentbus policy set agent.reviewer.task max_retries=5 --replace
    """
    from agentbus.cli.policy_table import declare
    from agentbus.cli.session import run

    run(lambda: declare(address, fields, replace=replace, url=url, prefix=prefix, as_json=as_json))


@app.command("clear", short_help="Withdraw a policy.")
def clear(
    address: Annotated[str, typer.Argument(help=_PLACE)],
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw what is declared for an address or a topic itself. Exit code 3 when nothing is.

    \b
    Examples:
      agentbus policy clear reviewer
      agentbus policy clear agent.reviewer.task
    """
    from agentbus.cli.policy_table import withdraw
    from agentbus.cli.session import run

    run(lambda: withdraw(address, url=url, prefix=prefix, as_json=as_json))
