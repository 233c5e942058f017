"""The roles by name."""

from __future__ import annotations

from collections.abc import Sequence

from agentbus.errors import ConfigurationError
from workers.archive import Archive
from workers.dead import Dead
from workers.due import Due
from workers.reclaim import Reclaim
from workers.recurring import Recurring
from workers.retention import Retention
from workers.role import Role
from workers.status import Status

#: In the order in which they start.
ROLES: tuple[type[Role], ...] = (Due, Reclaim, Dead, Recurring, Retention, Archive, Status)


def chosen(names: Sequence[str]) -> list[type[Role]]:
    """Return the roles with these names, all without any; raises `ConfigurationError` for an unknown one."""
    known = {role.name: role for role in ROLES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"no role is called {unknown[0]!r}; there are {', '.join(known) or 'none'}")
    return [role for role in ROLES if not names or role.name in names]
