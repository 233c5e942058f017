"""Program: ``python -m workers`` where much is wrong: the clock, by as many seconds as the first argument
says, and the network, which holds the answer to "what is due?" back until it may be true no more.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from agentbus.broker.schedules import DueTicks, ScheduleStore
from workers.__main__ import main

_LONGEST_DELAY = 0.3


def _delay_answers() -> None:
    due = ScheduleStore.due

    async def due_late(self: ScheduleStore, address: str, most: int, skipped: int = 0) -> DueTicks:
        found = await due(self, address, most, skipped)
        await asyncio.sleep(random.uniform(0.0, _LONGEST_DELAY))
        return found

    ScheduleStore.due = due_late  # type: ignore[method-assign]


if __name__ == "__main__":
    true_time = time.time
    skew = float(sys.argv[1])
    time.time = lambda: true_time() + skew
    _delay_answers()
    raise SystemExit(main(sys.argv[2:]))
