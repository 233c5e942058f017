"""``agentbus trace``: every place and outcome of one message."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def trace(
    message_id: Annotated[str, typer.Argument(help="As `agentbus pub` printed it.")],
    address: Annotated[
        str | None, typer.Option("--address", "-a", help="Search only this inbox or channel; far quicker.")
    ] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show where a message is, who had it, and how it ended.

    A message gets a new entry id whenever it is retried, released or taken over; it is followed by its
    message id. What history no longer holds cannot be shown. Exit code 3 when nothing is found.

    \b
    Examples:
      agentbus trace 0192f3a1-… --address reviewer
      agentbus trace 0192f3a1-… --json | jq '.places[0].status'
    """
    from agentbus.cli.session import run
    from agentbus.cli.trace_table import show_trace

    run(lambda: show_trace(message_id, address, url=url, prefix=prefix, as_json=as_json))
