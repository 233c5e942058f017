"""Ask an agent, with types at both ends, and see the three ways in which no answer comes."""

import asyncio

from pydantic import BaseModel

from agentbus import Agent, Bus, Reject, RequestFailed, RequestTimeout, Topic


class Question(BaseModel):
    text: str


class Reply(BaseModel):
    text: str


ASK = Topic("agent.oracle.question", Question, reply=Reply)

oracle = Agent("oracle")


@oracle.on(ASK)
async def answer(question: Question) -> Reply:
    if not question.text.endswith("?"):
        raise Reject("that is not a question")
    return Reply(text=f"{len(question.text)} characters well spent")


async def main() -> None:
    async with Bus("embedded://", agent="asker") as bus:
        async with bus.serving(oracle):
            reply = await bus.request(ASK, Question(text="Is it done?"))
            print(reply.text)
            try:
                await bus.request(ASK, Question(text="Do it."))
            except RequestFailed as failure:
                print(f"refused at once: {failure.reason}")
        try:
            await bus.request(ASK, Question(text="Anybody there?"), timeout="300ms")
        except RequestTimeout as failure:
            print(failure)


asyncio.run(main())
