"""Take messages when it suits you, instead of being called."""

import asyncio

from agentbus import Bus


async def main() -> None:
    async with Bus("embedded://", agent="clerk") as bus:
        await bus.publish_many("agent.clerk.form", ["birth", "marriage", "tax"])

        async for delivery in bus.inbox("clerk"):
            async with delivery:  # leaving the block = processed, an exception = tried again
                print(f"stamped {delivery.message.content}")
            if delivery.message.content == "marriage":
                break

        late = await bus.next("clerk", timeout="5s")
        if late is not None:
            await late.reject("the office is closed")
            print(f"rejected {late.message.content}")
        print(f"more: {await bus.next('clerk', timeout='200ms')}")


asyncio.run(main())
