"""``agentbus cancel``: take back what nobody has begun."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, InWhoseName, Prefix, Url


def cancel(
    message_id: Annotated[str, typer.Argument(help="As `agentbus pub` printed it.")],
    address: Annotated[
        str | None, typer.Option("--address", "-a", help="Only at this inbox; far quicker.")
    ] = None,
    sender: InWhoseName = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a message that waits or is due: nobody gets it any more.

    One that somebody handles already is refused, with who holds it. Exit code 1 when it is being handled,
    dead or ended, 3 when nothing is known of it.

    \b
    Examples:
      agentbus cancel 0192f3a1-… --address reviewer
    """
    from agentbus.cli.cancelling import cancel_message
    from agentbus.cli.session import run

    run(lambda: cancel_message(message_id, address, sender, url=url, prefix=prefix, as_json=as_json))
