"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer
import typer.core

from agentbus.cli import (
    agents,
    archive,
    bindings,
    broker,
    cancel,
    channel,
    dlq,
    dm,
    doctor,
    history,
    inbox,
    policy,
    project,
    pub,
    receipts,
    replay,
    run,
    schedule,
    status,
    sub,
    tail,
    trace,
    version,
    workers,
)  # fmt: skip

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

#: As `--help` lists them: start, send and take, look, mend, declare, serve.
_ORDER = (
    "up", "down", "workers", "agents", "pub", "sub", "dm", "tail", "inbox", "channel", "status", "history",
    "replay", "trace", "receipts", "cancel", "dlq", "schedule", "bindings", "policy", "project", "archive",
    "doctor", "run", "version",
)  # fmt: skip


class _InOrder(typer.core.TyperGroup):
    """Lists groups among the commands; Typer would put all of them last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names in our order."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_InOrder,
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
        typer.Option("--version", callback=version.print_and_exit, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


_root.__doc__ = None
app.command("up", short_help="Start the embedded broker and keep it in view.")(broker.up)
app.command("down", short_help="Stop the embedded broker.")(broker.down)
app.command("pub", short_help="Send a message, a request, or many messages.")(pub.pub)
app.command("sub", short_help="Take messages, as an agent would.")(sub.sub)
app.add_typer(dm.app, name="dm", short_help="Say something to one agent, and read what was said.")
app.command("tail", short_help="Look at messages without taking them.")(tail.tail)
app.command("inbox", short_help="Show what an inbox holds, and its ledger.")(inbox.inbox)
app.add_typer(channel.channel, name="channel", short_help="Show who reads a channel, and who has read what.")
app.command("status", short_help="Show how the whole bus does.")(status.status)
app.command("history", short_help="Show what became of the messages of an address.")(history.history)
app.command("replay", short_help="Hand a part of the past to an agent.")(replay.replay)
app.command("trace", short_help="Show what became of one message, or a whole conversation.")(trace.trace)
app.command("cancel", short_help="Take back a message that nobody has begun.")(cancel.cancel)
app.command("receipts", short_help="Show what became of a message at each of its recipients.")(
    receipts.receipts
)
app.add_typer(archive.archive, name="archive", short_help="See how far the archive is; turn it off.")
app.add_typer(dlq.dlq, name="dlq", short_help="Look at dead letters; retry, mend, resolve or drop them.")
app.command("doctor", short_help="Find out what is wrong, and what to do.")(doctor.doctor)
app.add_typer(schedule.app, name="schedule", short_help="Send messages again and again.")
app.add_typer(workers.app, name="workers", short_help="Show which workers run where, or run one.")
app.add_typer(agents.app, name="agents", short_help="Show which agents there are, and what they can do.")
app.add_typer(bindings.app, name="bindings", short_help="Show who gets copies of what; end a binding.")
app.add_typer(policy.app, name="policy", short_help="Show and declare policies of addresses and topics.")
app.add_typer(project.project, name="project", short_help="Delete a project and all that belongs to it.")
app.command("run", short_help="Serve agents.")(run.run_agents)
app.command("version", short_help="Print versions.")(version.version)
