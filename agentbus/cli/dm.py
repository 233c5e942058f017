"""``agentbus dm``: say something to one agent, and read what was said."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Cursor, Prefix, Url

_HELP = """Say something to one agent, and read what was said.

Every verb acts as an agent: the one of --as, else of AGENTBUS_AGENT.

\b
Examples:
  agentbus dm send reviewer '"have you seen #7?"' --as planner --allow-unknown
  agentbus dm ls --as planner
  agentbus dm show reviewer --as planner
"""

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_Me = Annotated[
    str | None,
    typer.Option("--as", help="The agent to act as. Left out: AGENTBUS_AGENT.", show_default=False),
]
_Other = Annotated[str, typer.Argument(help="The other agent, or the conversation: dm:planner:reviewer.")]


@app.command("ls")
def ls(me: _Me = None, url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Show with whom there are conversations: unread messages, and the last one of each."""
    from agentbus.cli.dm_table import Looking, show_conversations
    from agentbus.cli.session import run

    run(lambda: show_conversations(Looking(me, url, prefix, as_json)))


@app.command("show")
def show(
    other: _Other,
    me: _Me = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Messages of one page.")] = 20,
    cursor: Cursor = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show what was said, the newest first. It marks nothing as read.

    Exit code 3 when nothing was ever said.
    """
    from agentbus.cli.dm_table import Looking, show_conversation
    from agentbus.cli.session import run

    run(lambda: show_conversation(Looking(me, url, prefix, as_json), other, limit, cursor))


@app.command("send")
def send(  # noqa: PLR0913 - each is one option on the command line
    to: Annotated[str, typer.Argument(help="The name of the other agent.")],
    body: Annotated[str, typer.Argument(help="JSON; with --text any text; - reads it from stdin.")],
    me: _Me = None,
    text: Annotated[bool, typer.Option("--text", help="The body is text, not JSON.")] = False,
    message_type: Annotated[str, typer.Option("--type", help="The type of the message.")] = "dm",
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Also to an agent that nobody has ever served.")
    ] = False,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Say something to one agent. Exit code 3 when nobody has ever served it."""
    from agentbus.cli.dm_table import Looking, send_direct
    from agentbus.cli.publishing import read_body
    from agentbus.cli.session import run

    def content() -> object:
        return read_body(body, as_text=text)

    run(lambda: send_direct(Looking(me, url, prefix, as_json), to, content, message_type, allow_unknown))


@app.command("read")
def read(
    other: Annotated[
        str | None, typer.Argument(help="The other agent, or the conversation: dm:planner:reviewer.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", help="One message by its id, instead of all.")
    ] = None,
    me: _Me = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Mark a whole conversation, or one message, as read."""
    from agentbus.cli.dm_table import Looking, mark_read
    from agentbus.cli.session import run

    run(lambda: mark_read(Looking(me, url, prefix, as_json), other, message))
