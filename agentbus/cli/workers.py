"""``agentbus workers``: which workers run where, and how they do; and ``run``, to start one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url


class LogLevel(StrEnum):
    """From which level on lines are logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def workers(
    context: typer.Context,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show the workers: where each runs, since when, and per role its lag, steps and last error.

    Workers promote due messages, take over from the dead, repeat what recurs, trim history and archive it.
    Any number of them share the load, without a leader. One that stops is gone from here at once, one that
    died is shown as dead for ten minutes. Exit code 3 when none lives.

    \b
    Examples:
      agentbus workers
      agentbus workers --json | jq '.roles | map_values(.lag_ms)'
      agentbus workers run                  all roles, until SIGTERM or Ctrl-C
    """
    from agentbus.cli.session import run
    from agentbus.cli.workers_table import show_workers

    if context.invoked_subcommand is None:
        run(lambda: show_workers(url=url, prefix=prefix, as_json=as_json))


@app.command("run", short_help="Run workers in this process.")
def run_workers(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[role]...", help="Left out: all.")] = None,
    url: Url = None,
    prefix: Prefix = None,
    policies: Annotated[
        Path | None,
        typer.Option(
            "--policies", help="Declare the policies of this file (TOML or JSON).", show_default=False
        ),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive",
            metavar="DSN",
            help="The archive's database, postgresql://user@host/database. Left out: AGENTBUS_ARCHIVE, else "
            "no archive. Others on this machine can read a command line: a password belongs in ~/.pgpass.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option("--log-level", help="How much is logged.")] = LogLevel.info,
) -> None:
    """Run workers in this process until SIGTERM or Ctrl-C, which let them end their step; a second one ends
    them at once. Exit codes: 0 told to stop, 1 a role failed, 2 usage, 4 no broker.

    \b
    Examples:
      agentbus workers run
      agentbus workers run due reclaim
      agentbus workers run --url redis://redis:6379 --policies policies.toml
    """
    from agentbus.cli.services import become_workers
    from agentbus.cli.session import run

    options = ["--log-level", log_level.value]
    for name, value in (("--prefix", prefix), ("--policies", policies), ("--archive", archive)):
        if value is not None:
            options += [name, str(value)]
    run(lambda: become_workers(url, [*options, *(roles or ())]))
