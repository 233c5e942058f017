"""``agentbus sub``: take messages, as an agent would."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def sub(
    name: Annotated[str, typer.Argument(help="The inbox: reviewer or agent.reviewer")],
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many messages.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="End with exit code 5 when nothing came for so long: 10s.")
    ] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Take messages from an inbox, print them and settle them as processed.

    It competes with the agents that serve the inbox: what is printed here, nobody else gets. To look
    without taking, use `agentbus tail`.

    \b
    Examples:
      agentbus sub reviewer                         until Ctrl-C
      agentbus sub reviewer --count 1 --timeout 5s
      agentbus sub reviewer | jq .message.body      JSON lines into a pipe
    """
    from agentbus.cli.messages import take_messages
    from agentbus.cli.session import run

    run(lambda: take_messages(name, count, timeout, url=url, prefix=prefix, as_json=as_json))
