"""``agentbus replay``: a range of history, handed to an agent."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Correlation, MessageType, Prefix, SentBy, Url


def replay(  # noqa: PLR0913 - each is one option on the command line
    address: Annotated[str, typer.Argument(help="What to replay: channel.design, reviewer, …")],
    to: Annotated[str, typer.Option("--to", help="The agent that gets the messages.")],
    since: Annotated[
        str | None, typer.Option("--since", help="From this time: 2h (ago), or 2026-11-20T08:00:00Z.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Up to this time; left out: up to now.")
    ] = None,
    message_type: MessageType = None,
    sender: SentBy = None,
    correlation: Correlation = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="At most so many messages.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Messages a second at most.")] = None,
    replay_id: Annotated[
        str | None, typer.Option("--id", help="Go on with a replay that was interrupted; repeat the rest.")
    ] = None,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Also to an agent that nobody has served yet.")
    ] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Hand a part of the past to an agent: oldest first, from Redis and from the archive.

    The agent's handlers get each message as it was, with `replay` in its envelope. Without a rate the replay
    waits while the agent has 1,000 messages before it. Ctrl-C says under which id it goes on. Exit code 3
    when there is nothing to replay, or no such address or agent.

    \b
    Examples:
      agentbus replay channel.design --to newcomer --since 2h
      agentbus replay reviewer --to reviewer --type task --from planner --limit 100
      agentbus replay channel.design --to newcomer --since 2h --id 0192f3a1-…
    """
    from agentbus.cli.replaying import ReplayRequest, show_replay
    from agentbus.cli.session import run
    from agentbus.replay.plan import ReplayFilters

    filters = ReplayFilters(
        since=since, until=until, type=message_type, sender=sender, correlation_id=correlation
    )
    asked = ReplayRequest(address, to, replay_id, limit, rate, allow_unknown, filters)
    run(lambda: show_replay(asked, url=url, prefix=prefix, as_json=as_json))
