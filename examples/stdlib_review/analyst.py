"""One analyst process: takes files from the pool, reviews them, sends what it found to the coordinator.

    python -m examples.stdlib_review.analyst <broker url> <name>

On standard output it keeps a journal: ``begin <message id>`` and ``end <message id>``. The coordinator reads
it to know what the analyst holds, also when the analyst can no longer be asked.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings
from pathlib import Path

from agentbus import Agent, Bus, Context
from examples.stdlib_review.messages import RESULT_TOPIC, FileReview, FileTask, Oddity, TaskResult
from examples.stdlib_review.review import review_file


def analyst(name: str) -> Agent:
    """Return the agent. One review at a time: it keeps a core busy by itself."""
    agent = Agent(name, type="analyst", pools=["analysts"], concurrency=1)

    @agent.on("file")
    async def review(task: FileTask, context: Context) -> None:
        task_id = context.message.message_id
        journal("begin", task_id)
        started_at = time.time()
        # In a thread, so that the agent goes on talking to the bus meanwhile.
        found = await asyncio.to_thread(review_task, task)
        result = TaskResult(task_id, name, started_at, time.time(), found)
        await context.publish(RESULT_TOPIC, result)
        journal("end", task_id)

    return agent


def review_task(task: FileTask) -> FileReview:
    """Read and review one file; a file that cannot be read has that as its oddity."""
    try:
        source = Path(task.path).read_bytes()
    except OSError as problem:
        return FileReview(task.name, 0, [], [Oddity("cannot be read", 1, problem.strerror or str(problem))])
    return review_file(task.name, source)


def journal(word: str, task_id: str) -> None:
    """Write one line, at once and in one piece: it must be there even if the next moment is the last."""
    os.write(sys.stdout.fileno(), f"{word} {task_id}\n".encode())


async def serve(url: str, name: str) -> None:
    """Serve until SIGTERM, or until the coordinator is gone."""
    async with Bus(url, agent=name) as bus:
        watching = asyncio.create_task(end_without_coordinator())
        try:
            await bus.serve(analyst(name))
        finally:
            watching.cancel()


async def end_without_coordinator() -> None:
    """End this process when the other end of its standard input closes, as it does however that one ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    # Without draining: the broker has gone with the coordinator, and nobody is left to hand anything to.
    os._exit(1)


if __name__ == "__main__":
    # The library's own tests are full of odd escapes and comparisons; Python's warnings are not our topic.
    warnings.simplefilter("ignore")
    asyncio.run(serve(*sys.argv[1:3]))
