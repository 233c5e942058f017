"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The broker: redis://, rediss://, unix:// or embedded://. "
        "Left out: AGENTBUS_URL, else the embedded broker if it runs.",
        show_default=False,
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        help="What every key begins with. Left out: AGENTBUS_PREFIX, else agentbus.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines, as into a pipe.")]

# --- what commands that read history share ---

MessageType = Annotated[
    str | None, typer.Option("--type", help="A message type, or task.* for all that begin so.")
]
SentBy = Annotated[str | None, typer.Option("--from", help="The name of the sending agent.")]
Correlation = Annotated[str | None, typer.Option("--correlation", help="A conversation: the correlation id.")]
Cursor = Annotated[
    str | None, typer.Option("--cursor", help="Go on with the next page; the last one names it.")
]

# --- what commands that change something share ---

InWhoseName = Annotated[str | None, typer.Option("--from", help="In whose name; AGENTBUS_AGENT.")]
