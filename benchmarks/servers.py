"""The brokers of one run: private folders, free ports on loopback, ended by process id."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .processes import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_DEADLINE = 30.0

RABBIT_SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Debian's script below its wrapper: the wrapper on PATH insists on the system's user and folders."""


class ServerMissing(RuntimeError):
    """A server is not installed or did not start; the text is for the report."""


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _find(*names: str) -> str:
    for name in names:
        if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
            return found
    raise ServerMissing(f"{' or '.join(names)} not found")


async def _wait_for_port(port: int, process: asyncio.subprocess.Process, name: str) -> None:
    deadline = asyncio.get_running_loop().time() + START_DEADLINE
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                raise ServerMissing(f"{name} ended at start with code {process.returncode}") from None
            if asyncio.get_running_loop().time() > deadline:
                raise ServerMissing(f"{name} did not listen within {START_DEADLINE:.0f} s") from None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[str]:
    """Redis or Valkey from PATH with an append-only file, fsynced every second; yields its URL."""
    binary, port = _find("redis-server", "valkey-server"), free_port()
    command = (
        *(binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # A rewrite in the middle of a round would be noise; the runner asks for one between rounds.
        *("--auto-aof-rewrite-percentage", "0", "--maxmemory-policy", "noeviction"),
    )
    async with running(*command, log=folder / "redis.log") as process:
        await _wait_for_port(port, process, "redis-server")
        yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def nats_server(folder: Path) -> AsyncIterator[str]:
    """NATS with JetStream on file storage; yields its URL."""
    binary, port = _find("nats-server"), free_port()
    command = (binary, "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", str(folder))
    async with running(*command, log=folder / "nats.log") as process:
        await _wait_for_port(port, process, "nats-server")
        yield f"nats://127.0.0.1:{port}"


def _rabbit_environment(folder: Path, port: int, epmd_port: int) -> dict[str, str]:
    """Everything RabbitMQ would otherwise look for in the system's folders and ports."""
    config = folder / "rabbitmq.conf"
    config.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.file.level = warning\n")
    plugins = folder / "enabled_plugins"
    plugins.write_text("[].\n")
    return {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"agentbus-bench-{os.getpid()}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "no-system-settings"),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ALLOW_INPUT": "true",  # the script becomes the Erlang machine: one process id to end
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
    }


@asynccontextmanager
async def rabbitmq_server(folder: Path) -> AsyncIterator[str]:
    """A private RabbitMQ node with a private port mapper; yields its AMQP URL."""
    script, port, epmd_port = _find(RABBIT_SCRIPT, "rabbitmq-server"), free_port(), free_port()
    mapper = (_find("epmd"), "-address", "127.0.0.1", "-port", str(epmd_port))
    environment = _rabbit_environment(folder, port, epmd_port)
    # Our own port mapper in the foreground: the one Erlang starts by itself would outlive the run.
    async with (
        running(*mapper, log=folder / "epmd.log"),
        running(script, log=folder / "rabbitmq.log", env=environment) as process,
    ):
        await _wait_for_port(port, process, "rabbitmq-server")
        yield f"amqp://guest:guest@127.0.0.1:{port}/"


STARTERS = {"redis": redis_server, "nats": nats_server, "rabbitmq": rabbitmq_server}
