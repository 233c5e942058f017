"""``agentbus status``: how the whole bus does."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every two seconds, until Ctrl-C.")
    ] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show every inbox in numbers, the deepest first; then channels, totals and the server.

    In colour: nobody serves an inbox where something waits, dead letters, and what has waited for long.
    Held is what consumers have in flight. A number with ~ is worked out from the ledger, because the server
    has lost count. Rates are messages per second since the look before; the first look uses the last status
    that a worker published, if any.

    \b
    Examples:
      agentbus status
      agentbus status --watch
      agentbus status --json | jq '.addresses[] | select(.consumers == 0 and .waiting > 0) | .address'
      agentbus tail system.bus.status
    """
    from agentbus.cli.session import run
    from agentbus.cli.status_table import show_status

    run(lambda: show_status(watch=watch, url=url, prefix=prefix, as_json=as_json))
