"""The commands, put together. Each is loaded when it is called: all take longer to load than one to run."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
from typer.main import get_command, get_group

from agentbus.cli.version import print_and_exit

_HELP = """The message bus that AI-agent processes use to work together, on Redis Streams.

\b
First steps:
  agentbus up                                    start a broker of your own with workers, keep them in view
  agentbus pub agent.reviewer.task '{"pr": 7}'   send a message
  agentbus inbox reviewer                        see it waiting
  agentbus run tasks:reviewer --processes 4      serve agents
  agentbus doctor                                find out what is wrong, and what to do

\b
Which broker: --url, else AGENTBUS_URL, else the embedded broker if it runs.
Output: tables on a terminal, JSON lines into a pipe or with --json. NO_COLOR is honoured.
Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 unavailable, 5 timeout.
"""

#: Name to where the command is and what `--help` says of it, as `--help` lists them: start, send and take,
#: look, mend, declare, serve.
COMMANDS = {
    "up": ("broker:up", "Start the embedded broker and keep it in view."),
    "down": ("broker:down", "Stop the embedded broker."),
    "workers": ("workers:app", "Show which workers run where, or run one."),
    "agents": ("agents:app", "Show which agents there are, and what they can do."),
    "pub": ("pub:pub", "Send a message, a request, or many messages."),
    "sub": ("sub:sub", "Take messages, as an agent would."),
    "dm": ("dm:app", "Say something to one agent, and read what was said."),
    "tail": ("tail:tail", "Look at messages without taking them."),
    "inbox": ("inbox:inbox", "Show what an inbox holds, and its ledger."),
    "channel": ("channel:channel", "Show who reads a channel, and who has read what."),
    "status": ("status:status", "Show how the whole bus does."),
    "history": ("history:history", "Show what became of the messages of an address."),
    "replay": ("replay:replay", "Hand a part of the past to an agent."),
    "trace": ("trace:trace", "Show what became of one message, or a whole conversation."),
    "receipts": ("receipts:receipts", "Show what became of a message at each of its recipients."),
    "cancel": ("cancel:cancel", "Take back a message that nobody has begun."),
    "dlq": ("dlq:dlq", "Look at dead letters; retry, mend, resolve or drop them."),
    "schedule": ("schedule:app", "Send messages again and again."),
    "bindings": ("bindings:app", "Show who gets copies of what; end a binding."),
    "policy": ("policy:app", "Show and declare policies of addresses and topics."),
    "project": ("project:project", "Delete a project and all that belongs to it."),
    "archive": ("archive:archive", "See how far the archive is; turn it off."),
    "doctor": ("doctor:doctor", "Find out what is wrong, and what to do."),
    "run": ("run:run_agents", "Serve agents."),
    "version": ("version:version", "Print versions."),
}


class _OnDemand(typer.core.TyperGroup):
    """Loads the one command that is called; lists them all without loading any."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The names, by which a wrong one is told what it may have meant.
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names in our order."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Load a command."""
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the list for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])


def _load(name: str) -> Any:
    place, told = COMMANDS[name]
    module, _, attribute = place.partition(":")
    found = getattr(import_module(f"agentbus.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name, group.short_help = name, told
        return group
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, short_help=told)(found)
    return get_command(single)


app = typer.Typer(
    cls=_OnDemand,
    # Plain help: the boxes would cost half of the time that --help may take.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=print_and_exit, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


_root.__doc__ = None
