"""``agentbus channel``: who reads a channel, how far, and who has read one message."""

from __future__ import annotations

from typing import Annotated

import typer

from agentbus.cli.options import AsJson, Prefix, Url

_HELP = """See who reads a channel and how far, or who has read one of its messages.

\b
Examples:
  agentbus channel show channel.design
  agentbus channel receipts channel.design 1764230000000-0
  agentbus channel forget channel.design reviewer
"""

channel = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Address = Annotated[str, typer.Argument(help="channel.design, project.apollo or system.errors.")]


@channel.command("show")
def show(
    address: _Address,
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show the subscribers of a channel: who is there, how far each is, and what it missed.

    Exit code 3 when nobody ever subscribed.

    \b
    Example:
      agentbus channel show channel.design --json | jq 'select(.behind > 100)'
    """
    from agentbus.cli.channel_table import show_subscribers
    from agentbus.cli.session import run

    run(lambda: show_subscribers(address, url=url, prefix=prefix, as_json=as_json))


@channel.command("receipts")
def receipts(
    address: _Address,
    message: Annotated[str, typer.Argument(help="A message id, or its entry in the log.")],
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show for each subscriber when it was handed one message, and when it had read it.

    \b
    Example:
      agentbus channel receipts channel.design "$(agentbus tail channel.design -n 1 --no-follow --json |
        jq -r .entry_id)"
    """
    from agentbus.cli.channel_table import show_receipts
    from agentbus.cli.session import run

    run(lambda: show_receipts(address, message, url=url, prefix=prefix, as_json=as_json))


@channel.command("forget")
def forget(
    address: _Address,
    agent: Annotated[str, typer.Argument(help="The subscriber.")],
    url: Url = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Remove the cursor of an agent that is gone for good; if it comes back, it begins anew.

    Refused while the agent reads. The messages stay in the log.

    \b
    Example:
      agentbus channel forget channel.design reviewer
    """
    from agentbus.cli.channel_table import forget_subscriber
    from agentbus.cli.session import run

    run(lambda: forget_subscriber(address, agent, url=url, prefix=prefix, as_json=as_json))
