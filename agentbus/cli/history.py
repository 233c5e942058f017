"""``agentbus history``: what became of the messages of an address."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Correlation, Cursor, MessageType, Prefix, SentBy, Url


def history(  # noqa: PLR0913 - each is one option on the command line
    address: Annotated[
        str, typer.Argument(help="reviewer, agent.reviewer, channel.design or system.errors.")
    ],
    since: Annotated[
        str | None,
        typer.Option("--since", help="Ended at this time or later: 2h (ago), or 2026-11-20T08:00:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Ended before this time. Leaves out what has not ended.")
    ] = None,
    message_type: MessageType = None,
    sender: SentBy = None,
    correlation: Correlation = None,
    grep: Annotated[
        str | None, typer.Option("--grep", help="Text in the body, in upper or lower case.")
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="waiting, in_flight, due, dead or ended.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", help="processed, expired, cancelled, discarded, resolved or moved."),
    ] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="Begin with the oldest.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Messages of one page; 0 = all pages.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="All pages, as --limit 0.")] = False,
    cursor: Cursor = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show what became of messages: newest first, from Redis and from the archive.

    What has not ended comes before the newest end. Whether anything is missing is said on stderr, and why;
    with JSON the last line has next, complete and gaps. The archive is the one of AGENTBUS_ARCHIVE. Exit
    code 3 when nothing was ever sent to the address.

    \b
    Examples:
      agentbus history reviewer
      agentbus history reviewer --since 2h --outcome expired
      agentbus history reviewer --type 'task.*' --from planner --grep timeout
      agentbus history channel.design --oldest --all --json | jq -c 'select(.message)'
    """
    from agentbus.cli.history_table import HistoryPlan, show_history
    from agentbus.cli.session import run
    from agentbus.history.query import HistoryFilters

    filters = HistoryFilters(
        since=since, until=until, type=message_type, sender=sender, correlation_id=correlation, grep=grep,
        state=state, outcome=outcome, oldest_first=oldest,
    )  # fmt: skip
    size = 0 if everything else limit
    run(
        lambda: show_history(
            HistoryPlan(address, filters, size, cursor), url=url, prefix=prefix, as_json=as_json
        )
    )
