"""Policies from a file, declared when a worker starts.

One table per address or topic: ``["agent.reviewer"]`` and below it ``limit = 1000``, in TOML or JSON.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentbus.bus import Bus
from agentbus.errors import ConfigurationError, InvalidValue, PolicyConflict
from agentbus.message.address_policy import Policy, parse_policy
from workers.role import logger


def read_policies(file: Path) -> dict[str, Policy]:
    """Return the policies of a file by address or topic; raises `ConfigurationError` naming what is wrong."""
    try:
        text = file.read_text(encoding="utf-8")
        found: Any = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"policies: {file} cannot be read: {error}") from error
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"policies: {file} must hold one table per address")
    return {address: _policy(file, address, fields) for address, fields in found.items()}


def _policy(file: Path, address: str, fields: Any) -> Policy:
    if not isinstance(fields, Mapping):
        raise ConfigurationError(f'policies: {file}: {address!r} must be a table such as ["agent.reviewer"]')
    try:
        return parse_policy(fields)
    except InvalidValue as error:
        # Without quotes, TOML takes the dots of an address for tables within tables.
        hint = f'; write ["{address}.{error.field}"] with quotes' if address == "agent" else ""
        raise ConfigurationError(f"policies: {file}: {address}: {error}{hint}") from error


async def declare_all(bus: Bus, policies: Mapping[str, Policy]) -> None:
    """Declare them; raises one `PolicyConflict` that names every contradiction with what is stored."""
    conflicts = []
    for address, policy in policies.items():
        try:
            await bus.declare(address, policy)
        except PolicyConflict as error:
            conflicts.append(str(error))
    if conflicts:
        raise PolicyConflict("; ".join(conflicts))
    if policies:
        logger.info("policies declared: %s", " ".join(policies))
