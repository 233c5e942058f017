"""Imports agents and serves them in this process."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from agentbus.bus import Bus
from agentbus.cli.session import OK, USAGE, Failure, find_url, run_to_code, say, settings_with
from agentbus.receive.agent import Agent

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to serve, and where."""

    targets: tuple[str, ...]
    url: str | None
    prefix: str | None
    log_level: str
    #: 0: the only process. Else its number among those that a supervisor started.
    number: int = 0


def load_agents(targets: Iterable[str]) -> list[Agent]:
    """Import ``module:agent`` targets; raises `Failure` that says what is wrong with which."""
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds plain strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    agents: list[Agent] = []
    for target in targets:
        found = _load(target)
        many = list(found) if isinstance(found, (list, tuple)) else [found]
        if not many or not all(isinstance(agent, Agent) for agent in many):
            raise Failure(f"{target} is no Agent and no list of them, but {type(found).__name__}", USAGE)
        agents += [agent for agent in many if agent not in agents]
    return agents


def _load(target: str) -> Any:
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise Failure(f"{target!r} must be module:agent, for example tasks:reviewer", USAGE)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise Failure(f"importing {module_name} failed: {_where(error)}", USAGE) from None
        raise Failure(f"there is no module {module_name!r} in {os.getcwd()} or installed", USAGE) from None  # noqa: PTH109
    except Exception as error:
        raise Failure(f"importing {module_name} failed: {_where(error)}", USAGE) from None
    try:
        return getattr(module, name)
    except AttributeError:
        agents = sorted(key for key, value in vars(module).items() if isinstance(value, Agent))
        hint = f"; its agents are {', '.join(agents)}" if agents else ""
        raise Failure(f"module {module_name} has no {name!r}{hint}", USAGE) from None


def _where(error: BaseException) -> str:
    """Return an error of the user's module with the line at fault."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


async def serve_here(plan: RunPlan) -> int:
    """Serve until SIGTERM or Ctrl-C; both drain."""
    level = logging.getLevelNamesMapping().get(plan.log_level.upper())
    if level is None:
        raise Failure(f"--log-level: {plan.log_level!r} is not one of debug, info, warning, error", USAGE)
    logging.basicConfig(level=level, format=_LOG_FORMAT)
    agents = load_agents(plan.targets)
    if plan.number:
        _end_with_parent()
    async with Bus(
        await find_url(plan.url), agent=agents[0].name, settings=settings_with(plan.prefix)
    ) as bus:
        addresses = ", ".join(dict.fromkeys(address for agent in agents for address in agent.addresses))
        who = f"process {plan.number} ({os.getpid()})" if plan.number else f"process {os.getpid()}"
        say(f"agentbus: {who} serves {addresses}" + ("" if plan.number else "; Ctrl-C drains and ends"))
        await bus.serve(*agents)
    say(f"agentbus: {who} is drained")
    return OK


def _end_with_parent() -> None:
    """Drain when the supervisor is gone, however it ended: nobody could stop this process any more."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 1024):
            loop.remove_reader(descriptor)
            say("agentbus: the supervisor is gone; draining")
            os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(descriptor, look)


def serve_child(plan_text: str) -> None:
    """The whole life of a process that a supervisor started."""
    fields = json.loads(plan_text)
    plan = RunPlan(**{**fields, "targets": tuple(fields["targets"])})
    sys.exit(run_to_code(lambda: serve_here(plan)))


def plan_text(plan: RunPlan) -> str:
    """Return a plan for `serve_child`."""
    return json.dumps(asdict(plan))
