"""``agentbus dlq``: dead letters, and what to do with them."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url

_HELP = """Look at dead letters: messages that failed for good. Retry, mend, resolve or drop them.

\b
Examples:
  agentbus dlq ls --address reviewer --since 2h
  agentbus dlq show agent.reviewer:1763680000000-0
  agentbus dlq retry --address reviewer --reason exhausted --rate 500
"""

dlq = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Address = Annotated[str | None, typer.Option("--address", "-a", help="Of this inbox only.")]
Type = Annotated[str | None, typer.Option("--type", help="Of this message type.")]
Reason = Annotated[str | None, typer.Option("--reason", help="exhausted, rejected, crashed, malformed, …")]
Sender = Annotated[str | None, typer.Option("--sender", help="Sent by this agent.")]
Since = Annotated[str | None, typer.Option("--since", help="Died since: a time with its zone, or 2h.")]
Until = Annotated[str | None, typer.Option("--until", help="Died before: a time with its zone, or 2h.")]
Ids = Annotated[list[str], typer.Argument(help="As `agentbus dlq ls` shows them.")]
Id = Annotated[str, typer.Argument(help="As `agentbus dlq ls` shows it.")]


@dlq.command("ls")
def ls(  # noqa: PLR0913 - each is one option on the command line
    address: Address = None,
    type: Type = None,
    reason: Reason = None,
    sender: Sender = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[str, typer.Option("--status", help="dead, retrying, parked or resolved.")] = "dead",
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option("--after", help="Go on after the page before.")] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, address by address, newest first.

    \b
    Examples:
      agentbus dlq ls
      agentbus dlq ls --address reviewer --reason exhausted --since 2h
      agentbus dlq ls --status retrying
      agentbus dlq ls --limit 1000 | jq -r .id
    """
    from agentbus.cli.dlq_table import Asked, show_list
    from agentbus.cli.session import run

    asked = Asked(address, type, reason, sender, since, until, status)
    run(lambda: show_list(asked, limit, after, url=url, prefix=prefix, as_json=as_json))


@dlq.command("show")
def show(id: Id, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Show one dead letter with its whole message and its failures.

    \b
    Example:
      agentbus dlq show agent.reviewer:1763680000000-0
    """
    from agentbus.cli.dlq_table import show_one
    from agentbus.cli.session import run

    run(lambda: show_one(id, url=url, prefix=prefix, as_json=as_json))


@dlq.command("retry")
def retry(  # noqa: PLR0913 - each is one option on the command line
    ids: Annotated[list[str] | None, typer.Argument(help="As `agentbus dlq ls` shows them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    address: Address = None,
    type: Type = None,
    reason: Reason = None,
    sender: Sender = None,
    since: Since = None,
    until: Until = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Letters a second at most.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Hand dead letters out again, each with a fresh budget of retries.

    Name letters, or say which by filters, or --all. Many are gone through oldest first; what dies again
    meanwhile waits. Ctrl-C ends it between two batches, and says how far it came.

    \b
    Examples:
      agentbus dlq retry agent.reviewer:1763680000000-0
      agentbus dlq retry --address reviewer --reason exhausted --rate 500 --yes
      agentbus dlq retry --all --since 1h
    """
    from agentbus.cli.dlq_table import Asked
    from agentbus.cli.dlq_verbs import Pace, retry_many, retry_named
    from agentbus.cli.session import run

    asked = Asked(address, type, reason, sender, since, until)
    if ids:
        if every or asked != Asked():
            raise typer.BadParameter("name letters, or say which by filters, not both")
        run(lambda: retry_named(ids, url=url, prefix=prefix, as_json=as_json))
    if not every and asked == Asked():
        raise typer.BadParameter("name letters, or say which by filters; --all means every one")
    run(lambda: retry_many(asked, Pace(rate, yes), url=url, prefix=prefix, as_json=as_json))


@dlq.command("edit")
def edit(
    id: Id,
    body: Annotated[
        str | None, typer.Argument(help="The new body as JSON; - = stdin. Left out: $EDITOR opens.")
    ] = None,
    type: Annotated[
        str | None, typer.Option("--type", help="The message type; needed where none is known.")
    ] = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Give a dead letter another body and hand it out again.

    \b
    Examples:
      agentbus dlq edit agent.reviewer:1763680000000-0 '{"pr": 7}'
      agentbus dlq edit agent.reviewer:1763680000000-0 - < body.json
      EDITOR=vim agentbus dlq edit agent.reviewer:1763680000000-0
    """
    from agentbus.cli.dlq_verbs import edit_one
    from agentbus.cli.session import run

    run(lambda: edit_one(id, body, type, url=url, prefix=prefix, as_json=as_json))


@dlq.command("resolve")
def resolve(
    ids: Ids,
    note: Annotated[str, typer.Option("--note", "-m", help="What was done about it.")],
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """End dead letters that somebody took care of, with a note.

    \b
    Example:
      agentbus dlq resolve agent.reviewer:1763680000000-0 --note "reviewed by hand"
    """
    from agentbus.cli.dlq_verbs import resolve_named
    from agentbus.cli.session import run

    run(lambda: resolve_named(ids, note, url=url, prefix=prefix, as_json=as_json))


@dlq.command("drop")
def drop(ids: Ids, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """End dead letters that nobody wants; they count as discarded.

    \b
    Example:
      agentbus dlq drop agent.reviewer:1763680000000-0
    """
    from agentbus.cli.dlq_verbs import drop_named
    from agentbus.cli.session import run

    run(lambda: drop_named(ids, url=url, prefix=prefix, as_json=as_json))
