"""A broker without an installation: finds a server on this machine, runs it, shares it or keeps it private.

``ensure_running``, ``find`` and ``stop`` handle the one broker that all processes of a user share.
``PrivateBroker`` is a server of one process's own, for tests, demos and chaos runs.
"""

from agentbus.broker.embedded.binary import ServerBinary, find_server
from agentbus.broker.embedded.private import PrivateBroker
from agentbus.broker.embedded.records import (
    BrokerInUse,
    ConnectedClient,
    EmbeddedSettings,
    RunningBroker,
)
from agentbus.broker.embedded.shared import ensure_running, find, stop

__all__ = [
    "BrokerInUse",
    "ConnectedClient",
    "EmbeddedSettings",
    "PrivateBroker",
    "RunningBroker",
    "ServerBinary",
    "ensure_running",
    "find",
    "find_server",
    "stop",
]
