"""The command line: ``agentbus <command>``. One file per noun; heavy imports wait until used."""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; says what to install when its libraries are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"agentbus: the command line needs {' and '.join(missing)}. Install them with\n"
            "  pip install 'agentbus-redis[cli]'\n"
        )
        sys.exit(1)
    from agentbus.cli.app import app

    app(prog_name="agentbus")
