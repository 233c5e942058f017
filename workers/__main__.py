"""``python -m workers [role …]``: run workers until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentbus.bus import Bus
from agentbus.errors import AgentBusError, BrokerUnavailable, ConfigurationError, InvalidValue
from agentbus.settings import ARCHIVE_VARIABLE, archive_dsn, archive_keep, default_settings
from workers.archive import Archive
from workers.membership import new_worker_id
from workers.policies import declare_all, read_policies
from workers.role import Ground, Role, logger
from workers.roles import ROLES, chosen
from workers.service import RoleEnded, Service
from workers.settings import WorkerSettings
from workers.share import Share

#: The name workers send under and are seen under in CLIENT LIST.
AGENT = "workers"
_FAILURE, _USAGE, _UNAVAILABLE = 1, 2, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the roles that were asked for; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        asyncio.run(_serve(chosen(options.roles), options))
    except (ConfigurationError, InvalidValue) as error:
        return _complain(error, _USAGE)
    except BrokerUnavailable as error:
        return _complain(error, _UNAVAILABLE)
    except (AgentBusError, RoleEnded) as error:
        return _complain(error, _FAILURE)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"workers: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    width = max((len(role.name) for role in ROLES), default=0)
    roles = "\n".join(f"  {role.name:<{width}}  {role.summary}" for role in ROLES)
    parser = argparse.ArgumentParser(
        prog="python -m workers",
        description="Keep a fleet healthy while agents are away. Run any number of these, on any machine.",
        epilog=f"roles:\n{roles}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("roles", nargs="*", metavar="role", help="what to run; all when left out")
    parser.add_argument("--url", help="the broker; else AGENTBUS_URL")
    parser.add_argument("--prefix", help="what every key begins with; else AGENTBUS_PREFIX, else agentbus")
    parser.add_argument(
        "--archive",
        metavar="DSN",
        help=f"the archive's database, postgresql://user@host/database; else {ARCHIVE_VARIABLE}, else no "
        "archive. Others on this machine can read a command line: a password belongs in ~/.pgpass",
    )
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="FILE",
        help="declare the policies of this file (TOML or JSON)",
    )
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )
    parser.add_argument(
        "--until-input-ends",
        action="store_true",
        help="stop when standard input ends: whoever holds its other end is gone",
    )
    return parser


def _worker_settings(options: argparse.Namespace) -> WorkerSettings:
    """Return the settings; raises `ConfigurationError` for a role that cannot do what was asked."""
    archive = options.archive or archive_dsn()
    if archive is None and Archive.name in options.roles:
        raise ConfigurationError(
            f"the role {Archive.name} needs a database: set {ARCHIVE_VARIABLE} or give "
            "--archive postgresql://user@host/database"
        )
    return WorkerSettings(archive=archive, archive_keep=archive_keep())


async def _serve(kinds: Sequence[type[Role]], options: argparse.Namespace) -> None:
    settings, worker_settings = default_settings(), _worker_settings(options)
    if options.prefix is not None:
        settings = replace(settings, prefix=options.prefix)
    declared = read_policies(options.policies) if options.policies is not None else {}
    async with Bus(options.url, agent=AGENT, type="service", settings=settings) as bus:
        ground = Ground(bus, worker_settings, Share(new_worker_id()))
        roles = [kind(ground) for kind in kinds]
        service = Service(ground, roles)
        _stop_on_signals(service)
        if options.until_input_ends:
            _stop_with_input(service)
        await declare_all(bus, declared)
        logger.info("worker %s, process %d: %s", ground.share.worker_id, os.getpid(), _names(roles))
        await service.run()
        logger.info("worker %s stopped", ground.share.worker_id)


def _names(roles: Sequence[Role]) -> str:
    return " ".join(role.name for role in roles)


def _stop_on_signals(service: Service) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, _stop, service, number.name)
        except NotImplementedError:  # Windows: Ctrl-C ends the process by KeyboardInterrupt
            return


def _stop(service: Service, why: str) -> None:
    logger.info("stopping: %s", why)
    service.stop()


def _stop_with_input(service: Service) -> None:
    """Stop when nobody can write to our input any more: no orphan is left behind, whoever was killed."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            _stop(service, "the starter is gone")

    loop.add_reader(0, read)


if __name__ == "__main__":
    raise SystemExit(main())
