"""One file per measured system. Each imports its own libraries, so only its process needs them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol import Candidate

#: name on the command line -> (module, class)
CATALOGUE: dict[str, tuple[str, str]] = {
    "raw-script": ("raw", "RawScript"),
    "raw-pipeline": ("raw", "RawPipeline"),
    "raw-read": ("raw", "RawRead"),
    "raw-latency": ("raw", "RawLatency"),
    "agentbus": ("agentbus", "AgentBus"),
    "agentbus-many": ("agentbus", "AgentBusMany"),
    "faststream": ("faststream", "FastStreamRedis"),
    "taskiq": ("taskiq", "TaskiqRedis"),
    "streaq": ("streaq", "StreaQ"),
    "jetstream": ("jetstream", "JetStream"),
    "jetstream-push": ("jetstream", "JetStreamPush"),
    "rabbitmq": ("rabbitmq", "RabbitQuorum"),
}

#: The ones that run in the project's own environment; the others need the peers' one.
AT_HOME = frozenset(name for name in CATALOGUE if name.startswith(("raw", "agentbus")))

RAW_PUBLISH, RAW_CONSUME, RAW_LATENCY = "raw-script", "raw-read", "raw-latency"
AGENTBUS, AGENTBUS_MANY = "agentbus", "agentbus-many"
FASTSTREAM, JETSTREAM, JETSTREAM_PUSH = "faststream", "jetstream", "jetstream-push"


def load(name: str) -> type[Candidate]:
    """The class of a candidate; ImportError when its package is not installed here."""
    module, attribute = CATALOGUE[name]
    found: type[Candidate] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
