"""Three agents share the work of one name; each also has an inbox of its own."""

import asyncio
from collections import Counter

from agentbus import Agent, Bus, Message

done: Counter[str] = Counter()


def reader(name: str, seconds: float) -> Agent:
    agent = Agent(name, pools=["readers"], concurrency=2)

    @agent.on("page")
    async def read(page: int) -> None:
        await asyncio.sleep(seconds)
        done[name] += 1

    @agent.on()
    async def anything_else(message: Message) -> None:
        print(f"{name} alone got: {message.content}")

    return agent


async def main() -> None:
    # The slow one takes less: an agent asks for work only when it has a handler free.
    readers = [reader("anna", 0.03), reader("ben", 0.03), reader("carl", 0.3)]
    async with Bus("embedded://", agent="librarian") as bus, bus.serving(*readers):
        await bus.publish_many("agent.readers.page", range(60))
        await bus.publish("agent.ben.note", "for you only")
        while done.total() < 60:
            await asyncio.sleep(0.01)
    print(f"{done.total()} pages read by {', '.join(sorted(done))}")


asyncio.run(main())
