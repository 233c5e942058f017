"""``agentbus trace``: every place and outcome of one message, or a conversation as a sequence."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def trace(
    id: Annotated[
        str, typer.Argument(help="Of a message, as `agentbus pub` printed it, or of a conversation.")
    ],
    address: Annotated[
        str | None, typer.Option("--address", "-a", help="Search only this inbox or channel; far quicker.")
    ] = None,
    conversation: Annotated[
        bool, typer.Option("--conversation", "-c", help="Show the whole conversation, also of a message.")
    ] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show where a message is, who had it, and how it ended.

    A message gets a new entry id whenever it is retried, released or taken over; it is followed by its
    message id. An id that is no message's is taken as a correlation id: the conversation is shown as a
    sequence, who sent what to whom, each message after its cause. What history no longer holds cannot be
    shown. Exit code 3 when nothing is found.

    \b
    Examples:
      agentbus trace 0192f3a1-… --address reviewer
      agentbus trace review-7 --conversation
      agentbus trace 0192f3a1-… --json | jq '.places[0].status'
    """
    from agentbus.cli.session import run
    from agentbus.cli.trace_table import TracePlan, show_trace

    plan = TracePlan(id, address, conversation)
    run(lambda: show_trace(plan, url=url, prefix=prefix, as_json=as_json))
