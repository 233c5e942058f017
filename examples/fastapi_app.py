"""A web application that is an agent too: `uvicorn examples.fastapi_app:app` (needs fastapi, uvicorn)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

from agentbus import Agent, Bus, RequestFailed, RequestTimeout

shop = Agent("shop")


@shop.on("price")
async def price(article: str) -> dict[str, Any]:
    return {"article": article, "cents": 100 * len(article)}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Served in uvicorn's own event loop; leaving the block drains.
    async with Bus("embedded://", agent="web") as bus, bus.serving(shop):
        app.state.bus = bus
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/prices/{article}")
async def read_price(article: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await app.state.bus.request("agent.shop.price", article, timeout="5s")
    except RequestTimeout as error:
        raise HTTPException(504, str(error)) from error
    except RequestFailed as error:
        raise HTTPException(502, error.reason) from error
    return answer


@app.put("/orders/{number}", status_code=202)
async def order(number: str, articles: list[str]) -> dict[str, bool]:
    # A browser that sends the order again does not order again.
    stored = await app.state.bus.publish("agent.warehouse.order", articles, key=number)
    return {"new": not stored.duplicate}
