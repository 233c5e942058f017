"""Guards taken away, to prove that the runs see what happens without them."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

from agentbus import Bus
from agentbus.broker.answers import BatchAnswer
from agentbus.broker.embedded import ServerBinary
from agentbus.errors import BrokerUnavailable
from agentbus.message.topics import Destination
from agentbus.send.address_queue import AddressQueue
from tests.chaos.checker import Verdict, check
from tests.chaos.gate import Gate
from tests.chaos.stage import Stage

_NAME = "careless"


class ForgetfulBus(Bus):
    """Its publisher sends a batch whose reply was lost again as if it were a new one."""

    async def open(self) -> None:
        """Connect, and take the guard away."""
        await super().open()
        publisher = self.publisher
        honest = publisher._open_queue

        def open_queue(destination: Destination) -> AddressQueue:
            queue = honest(destination)
            queue._target = _Forgetful(queue)
            return queue

        publisher._open_queue = open_queue  # type: ignore[method-assign]


class _Forgetful:
    """What a queue stores its batches in, without the guard."""

    def __init__(self, queue: AddressQueue) -> None:
        self._queue = queue
        self._honest = queue._target
        self.address = queue._target.address

    async def publish(self, *arguments: Any) -> BatchAnswer:
        """Store one batch; after a lost reply begin to count anew."""
        try:
            return await self._honest.publish(*arguments)
        except BrokerUnavailable:
            # Without this line the same positions are sent again, and the server answers from its record.
            self._queue._new_producer()
            raise


def settle_before_the_work(
    seed: str, messages: int, kills: int, binary: ServerBinary | None = None
) -> Verdict:
    """Kill agents that settle first: what they had not done yet is lost, and the verdict must say so."""
    dice = random.Random(f"{seed} careless")
    with Stage(binary) as stage:
        topic, address = f"agent.{_NAME}.task", f"agent.{_NAME}"
        Gate(stage.folder / "gate").open(1.0)
        stage.start(
            "publisher", topic=topic, writer="plain", messages=messages, idempotent=False, deadline=30.0,
            seed=seed,
        )  # fmt: skip
        for _ in range(kills):
            pid = stage.start("agent", name=_NAME, manner="settle_first", seconds=0.05)
            stage.wait(partial(_begun, stage, pid), 20, "an agent to begin", every=0.05)
            time.sleep(dice.uniform(0.0, 0.2))
            stage.kill(pid)
        last = stage.start("agent", name=_NAME, manner="settle_first")
        stage.wait_drained(address)
        stage.stop([last])
        return check(stage.records(), stage.dead_keys(address), stage.queued_keys(address))


def _begun(stage: Stage, pid: int) -> bool:
    return any(record.event == "begin" and record.pid == pid for record in stage.records())
