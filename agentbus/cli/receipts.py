"""``agentbus receipts``: what became of a message to named agents at each of them."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def receipts(
    message_id: Annotated[str, typer.Argument(help="The message, as `bus.send` and `bus.dm` return its id.")],
    wait: Annotated[
        str | None,
        typer.Option("--wait", help="Wait until all have it stored, delivered, read or processed."),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait.")] = "30s",
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a message is at each recipient: stored, delivered, read, processed, or refused and why.

    Receipts are kept for seven days. Exit code 3 when there are none, 5 when the time passed before all of
    them had come so far.

    \b
    Examples:
      agentbus receipts 0198f2c4-7d1e-7000-8000-4b6f0c9d2a11
      agentbus receipts 0198f2c4-7d1e-7000-8000-4b6f0c9d2a11 --wait read --timeout 1m
    """
    from agentbus.cli.receipts_table import show_receipts
    from agentbus.cli.session import run

    run(lambda: show_receipts(message_id, wait, timeout, url=url, prefix=prefix, as_json=as_json))
