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
