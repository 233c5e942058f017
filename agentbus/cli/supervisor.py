"""Several serving processes: started, watched, started again when they die, drained together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import replace

from agentbus.cli.output import plural
from agentbus.cli.serving import RunPlan, plan_text
from agentbus.cli.session import FAILURE, OK, USAGE, say
from agentbus.message.backoff import Backoff
from agentbus.message.durations import readable

#: What a process runs. It gets our search path, and -P keeps its own folder rules out of it.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from agentbus.cli.serving import serve_child; serve_child(sys.argv[2])"
)
#: Seconds that a process must have lived for its next death to count as the first.
_SETTLED_AFTER = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


async def supervise(plan: RunPlan, count: int) -> int:
    """Serve in ``count`` processes until SIGTERM or Ctrl-C."""
    return await _Supervisor(plan).run(count)


class _Supervisor:
    """Keeps its processes running."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._stopping = asyncio.Event()
        self._processes: dict[int, Process] = {}

    async def run(self, count: int) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        say(
            f"agentbus: starting {plural(count, 'process')} for {' '.join(self._plan.targets)}; Ctrl-C drains"
        )
        codes = await asyncio.gather(*(self._keep(number) for number in range(1, count + 1)))
        return max(codes)

    def _stop(self) -> None:
        """Drain all; told a second time, they no longer wait for running handlers."""
        say("agentbus: draining" if not self._stopping.is_set() else "agentbus: ending without waiting")
        self._stopping.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _keep(self, number: int) -> int:
        """Keep one process running; returns the exit code that it stands for."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, uniform=lambda _low, high: high)
        while not self._stopping.is_set():
            begun = loop.time()
            process = await self._start(number)
            code = await process.wait()
            del self._processes[number]
            if self._stopping.is_set():
                # One that was told to end while it was still starting had nothing to drain.
                return OK if code in (OK, -signal.SIGTERM, 128 + signal.SIGTERM) else FAILURE
            if code == USAGE:
                # It can never work, here as in the others: what is wrong was said by the process itself.
                self._stop()
                return USAGE
            if loop.time() - begun > _SETTLED_AFTER:
                backoff.reset()
            pause = backoff.next_pause()
            say(
                f"agentbus: process {number} ({process.pid}) {_ending(code)}; "
                f"it is started again in {readable(pause)}"
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
        return OK

    async def _start(self, number: int) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path),
            plan_text(replace(self._plan, number=number)),
            # Its end tells the process that we are gone.
            stdin=PIPE,
            # Ctrl-C reaches only us: a second signal on top of ours would end it without draining.
            process_group=0,
        )  # fmt: skip
        self._processes[number] = process
        if self._stopping.is_set():
            # The order to stop came while it was being started.
            process.send_signal(signal.SIGTERM)
        return process


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
