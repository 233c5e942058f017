"""``agentbus inbox``: what an inbox holds."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def inbox(
    name: Annotated[
        str | None, typer.Argument(help="reviewer or agent.reviewer. Left out: all addresses.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")
    ] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show what an inbox holds: waiting per lane, in flight per consumer, due, dead, and its ledger.

    Waiting messages are counted one by one. The ledger closes when everything that was accepted has ended
    or is still here; otherwise it says by how much it does not. Without a name: totals of all inboxes, and
    the channels with what is in their logs.

    \b
    Examples:
      agentbus inbox
      agentbus inbox reviewer
      agentbus inbox reviewer --watch
      agentbus inbox reviewer --json | jq .ledger.difference
    """
    from agentbus.cli.inbox_table import show_all, show_one
    from agentbus.cli.session import run

    if name is None:
        run(lambda: show_all(watch=watch, url=url, prefix=prefix, as_json=as_json))
    run(lambda: show_one(name, watch=watch, url=url, prefix=prefix, as_json=as_json))
