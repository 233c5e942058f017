"""``agentbus archive``: how far the archive is, and turning it off."""

from __future__ import annotations

import typer

from agentbus.cli.options import AsJson, Prefix, Url

_HELP = """See how far the archive is behind, address by address, or turn it off.

It is turned on by a worker that knows a database: AGENTBUS_ARCHIVE=postgresql://… agentbus workers run

\b
Examples:
  agentbus archive status
  agentbus archive off
"""

archive = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@archive.command("status")
def status(url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Show for each address how much is archived, and how far behind the archive is.

    Reads Redis only: it answers while PostgreSQL does not.

    \b
    Examples:
      agentbus archive status
      agentbus archive status --json | jq 'select(.lag_ms > 60000)'
    """
    from agentbus.cli.archive_table import show_status
    from agentbus.cli.session import run

    run(lambda: show_status(url=url, prefix=prefix, as_json=as_json))


@archive.command("off")
def off(url: Url = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Stop waiting for the archive: history goes again when retention says so, archived or not.

    Refused while a worker archives: it would turn the archive on again. What is in PostgreSQL stays there.

    \b
    Example:
      agentbus archive off
    """
    from agentbus.cli.archive_table import turn_off
    from agentbus.cli.session import run

    run(lambda: turn_off(url=url, prefix=prefix, as_json=as_json))
