"""``agentbus tail``: look at messages without taking them."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def tail(
    pattern: Annotated[
        str,
        typer.Argument(
            help="An inbox (reviewer, agent.reviewer), a channel (system.announcements), or types in it "
            "(agent.reviewer.task.*)"
        ),
    ],
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Begin with the last so many.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on with what arrives, or end there.")
    ] = True,
    dead: Annotated[bool, typer.Option("--dead", help="Dead letters too.")] = False,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many.")] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show messages of an inbox or a channel as they arrive, without taking them.

    It follows all lanes, and `returned`, where a message shows again when it is tried again. It joins
    nothing: agents get every message all the same. A delayed message shows when it comes due.

    \b
    Examples:
      agentbus tail reviewer
      agentbus tail agent.reviewer.task -n 50 --no-follow
      agentbus tail system.announcements
      agentbus tail 'agent.reviewer.review.*' --dead | jq .message.message_id
    """
    from agentbus.cli.messages import TailPlan, tail_messages
    from agentbus.cli.session import run

    plan = TailPlan(pattern, last, follow, dead, count)
    run(lambda: tail_messages(plan, url=url, prefix=prefix, as_json=as_json))
