"""The services that are applications and no libraries: where they are, and how they are started.

A package named ``workers`` in site-packages would collide with half the world. So the wheel carries the
folder inside of ours, and each service is started as a process of its own with that folder on its path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import agentbus
from agentbus.cli.session import find_url
from agentbus.errors import ConfigurationError
from agentbus.settings import whole_environment


@dataclass(frozen=True, slots=True)
class ServiceCommand:
    """How a service is started."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


def service_command(name: str, arguments: Sequence[str]) -> ServiceCommand:
    """Return what starts the service ``name`` with this interpreter and environment.

    ``-P`` keeps the working directory out of its search path, with whatever a user has there.
    """
    folder = services_folder(name)
    environment = whole_environment()
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{before}" if before else str(folder)
    return ServiceCommand((sys.executable, "-P", "-m", name, *arguments), environment)


def services_folder(name: str) -> Path:
    """Return the folder that holds the package ``name``: in the wheel our own, else the checkout's root."""
    package = Path(agentbus.__file__).parent
    for folder in (package / "_services", package.parent):
        if (folder / name / "__main__.py").is_file():
            return folder
    raise ConfigurationError(f"this installation of agentbus carries no {name}; install it again, whole")


async def become_workers(url: str | None, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by a worker, so that signals and exit code are its own."""
    found = await find_url(url)
    command = service_command("workers", ["--url", found, *arguments])
    sys.stdout.flush()
    os.execve(command.arguments[0], command.arguments, command.environment)
