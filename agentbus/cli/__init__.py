"""The command line: ``agentbus <command>``. One file per noun; heavy imports wait until used."""

from __future__ import annotations

import gc
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
    # Everything made here stays: to look through it for garbage would take a tenth of the time to --help.
    gc.disable()
    from typer.main import get_command

    from agentbus.cli.app import app

    command = get_command(app)
    gc.enable()
    command(prog_name="agentbus")
