"""``agentbus project``: delete a project."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, InWhoseName, Prefix, Url

_HELP = """Delete a project and all that belongs to it.

\b
Examples:
  agentbus project rm demo --dry-run
  agentbus project rm demo --reason "the customer asked for it" --yes
"""

project = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@project.callback()
def _root() -> None:
    pass


_root.__doc__ = None


@project.command("rm")
def rm(  # noqa: PLR0913 - each is one option on the command line
    project: Annotated[str, typer.Argument(help="The id of the project: demo for project.demo.")],
    reason: Annotated[
        str, typer.Option("--reason", help="Why; it is kept with the audit entry.")
    ] = "asked for on the command line",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    keep_archive: Annotated[bool, typer.Option("--keep-archive", help="Leave the archive alone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    sender: InWhoseName = None,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Delete a project: its channel and all messages that belong to it, everywhere, the archive too.

    What waits or is due is cancelled first. What somebody handles is left; delete again when it has ended. An
    entry on system.audit says who, why and how much. Exit code 1 when something is left, 3 when nothing of
    the project is known.

    \b
    Examples:
      agentbus project rm demo --dry-run
      agentbus project rm demo --reason "the customer asked for it" --yes
    """
    from agentbus.cli.project_table import RemovalRequest, remove_project
    from agentbus.cli.session import run

    asked = RemovalRequest(project, reason, dry_run, keep_archive, yes, sender)
    run(lambda: remove_project(asked, url=url, prefix=prefix, as_json=as_json))
