"""``agentbus schedule``: messages that are sent again and again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentbus.cli.options import AsJson, Prefix, Url

_HELP = """Send messages again and again: by cron, at intervals, or once at a time.

\b
  "30 2 * * *"                cron: minute, hour, day of month, month, day of week, in --timezone
  interval:60                 each 60 seconds, counted from now; also interval:5m
  at:2026-12-31T23:59:59Z     once

Workers send them: `agentbus workers run recurring`, as many as you like; each tick is sent once.

\b
Examples:
  agentbus schedule add agent.reviewer.sweep '{"day": "{{tick_time}}"}' '30 2 * * *' --timezone Europe/Berlin
  agentbus schedule ls reviewer
  agentbus schedule next '*/15 9-17 * * mon-fri' --timezone America/New_York
  agentbus schedule pause agent.reviewer:nightly
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=_HELP)

_Id = Annotated[str, typer.Argument(help="As add and ls print it: agent.reviewer:nightly")]
_Zone = Annotated[str, typer.Option("--timezone", "-z", help="Whose clock a cron expression speaks of.")]


@app.command("add", short_help="Add one.")
def add(  # noqa: PLR0913 - each is one option on the command line
    topic: Annotated[str, typer.Argument(help="agent.<name>.<type>, or that of a channel")],
    body: Annotated[str, typer.Argument(help="JSON; with --text any text; - reads it from stdin.")],
    schedule: Annotated[str, typer.Argument(help='"30 2 * * *", interval:60 or at:2026-12-31T23:59:59Z')],
    timezone: _Zone = "UTC",
    name: Annotated[
        str | None, typer.Option(help="Of the schedule; adding the same again changes nothing.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="No tick after: 2026-12-31T23:59:59Z.")] = None,
    misfire: Annotated[
        str, typer.Option(help="Ticks that nobody could send in time: skip, once, or all:<most>.")
    ] = "once",
    grace: Annotated[
        str | None, typer.Option(help="A tick later than this is missed. Left out: 60s.", show_default=False)
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="The body is text, not JSON.")] = False,
    priority: Annotated[
        str | None, typer.Option(help="critical, high, normal, low or background.", show_default=False)
    ] = None,
    ttl: Annotated[str | None, typer.Option(help="Worth handling for so long: 10m.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Anything about it; a JSON object.")] = None,
    sender: Annotated[str | None, typer.Option("--from", help="The owner. Left out: AGENTBUS_AGENT.")] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Add a recurring message.

    {{tick_time}}, {{tick_number}} and {{schedule_id}} in the texts of the body are filled in at each tick.

    \b
    Examples:
      agentbus schedule add agent.reviewer.sweep '{"run": "{{tick_number}}"}' interval:5m
      agentbus schedule add agent.reviewer.report null '0 8 * * mon' -z Europe/Berlin --name weekly
      agentbus schedule add channel.ops.note "maintenance begins" at:2026-12-31T22:00:00Z --text
    """
    from agentbus.cli.publishing import read_body
    from agentbus.cli.schedule_table import Request, add_one
    from agentbus.cli.session import run

    async def main() -> None:
        given = _given(
            name=name, grace=grace, priority=priority, ttl=ttl, metadata=_object("metadata", metadata)
        )
        request = Request(
            topic, read_body(body, as_text=text), schedule, timezone, expires_at, misfire, given
        )
        await add_one(request, sender=sender, url=url, prefix=prefix, as_json=as_json)

    run(main)


@app.command("ls", short_help="List them.")
def ls(
    address: Annotated[
        str | None, typer.Argument(help="reviewer, agent.reviewer or a channel. Left out: all.")
    ] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """List schedules: when each ticks next and last, how often it was sent and how often missed.

    \b
    Examples:
      agentbus schedule ls
      agentbus schedule ls reviewer --json | jq 'select(.state == "paused") | .id'
    """
    from agentbus.cli.schedule_table import show_all
    from agentbus.cli.session import run

    run(lambda: show_all(address, url=url, prefix=prefix, as_json=as_json))


@app.command("show", short_help="Show one.")
def show(schedule_id: _Id, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Show everything about one schedule.

    \b
    Examples:
      agentbus schedule show agent.reviewer:nightly
    """
    from agentbus.cli.schedule_table import show_one
    from agentbus.cli.session import run

    run(lambda: show_one(schedule_id, url=url, prefix=prefix, as_json=as_json))


@app.command("pause", short_help="Send nothing until it is resumed.")
def pause(schedule_id: _Id, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Pause a schedule. What it would have sent meanwhile is not sent later.

    \b
    Examples:
      agentbus schedule pause agent.reviewer:nightly
    """
    _change("pause", schedule_id, url, prefix, as_json)


@app.command("resume", short_help="Go on with one that is paused.")
def resume(schedule_id: _Id, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Go on with a paused schedule, at its next tick from now.

    \b
    Examples:
      agentbus schedule resume agent.reviewer:nightly
    """
    _change("resume", schedule_id, url, prefix, as_json)


@app.command("rm", short_help="Remove one.")
def rm(schedule_id: _Id, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Remove a schedule. What it has sent stays.

    \b
    Examples:
      agentbus schedule rm agent.reviewer:nightly
    """
    _change("cancel", schedule_id, url, prefix, as_json)


@app.command("next", short_help="Show the next ticks of one, or of what could become one.")
def next_ticks(
    what: Annotated[str, typer.Argument(help="A schedule's id, or a schedule such as '30 2 * * *'")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 5,
    timezone: _Zone = "UTC",
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show the next ticks. Stores nothing; for what is no id no broker is needed.

    \b
    Examples:
      agentbus schedule next '30 2 * * *' --timezone Europe/Berlin
      agentbus schedule next interval:90 -n 3
      agentbus schedule next agent.reviewer:nightly
    """
    from agentbus.cli.schedule_table import show_next
    from agentbus.cli.session import run

    run(lambda: show_next(what, count, timezone, url=url, prefix=prefix, as_json=as_json))


def _change(verb: str, schedule_id: str, url: str | None, prefix: str | None, as_json: bool) -> None:
    from agentbus.cli.schedule_table import change
    from agentbus.cli.session import run

    run(lambda: change(verb, schedule_id, url=url, prefix=prefix, as_json=as_json))


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; what was left out must not be sent as a default."""
    return {name: value for name, value in options.items() if value is not None}


def _object(name: str, text: str | None) -> dict[str, Any] | None:
    from agentbus.cli.publishing import read_object

    return None if text is None else read_object(name, text)
