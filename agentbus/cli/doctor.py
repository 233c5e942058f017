"""``agentbus doctor``: what is wrong, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


def doctor(
    repair: Annotated[
        str | None,
        typer.Option(
            "--repair",
            help="Repair the lanes of this inbox that take no more messages.",
            show_default=False,
            metavar="<name>",
        ),
    ] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Check the server and everything on it; exit code 1 when anything is bad.

    Server: reachability, latency, version, persistence, eviction, memory, clock, scripts, forks, clients,
    and what each level of durability really means there. Addresses: nobody serves them, consumers stand
    still or lag, lanes take no more messages, keys of the wrong type, ledgers that do not close.

    --repair gives a lane whose last id is the largest possible (somebody added it by hand) a new stream
    with the same waiting messages. It refuses while anything of the lane is in flight; history is dropped.

    \b
    Examples:
      agentbus doctor
      agentbus doctor --json | jq 'select(.status != "ok")'
      agentbus doctor --repair reviewer
    """
    from agentbus.cli.examination import examine, repair_inbox
    from agentbus.cli.session import run

    if repair is not None:
        run(lambda: repair_inbox(repair, url=url, prefix=prefix, as_json=as_json))
    run(lambda: examine(url=url, prefix=prefix, as_json=as_json))
