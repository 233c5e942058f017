"""Deliveries that user code pulls: the same engine, with the caller in the runner's place."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from agentbus.events import Events
from agentbus.message.current import HANDLED
from agentbus.message.durations import Duration, readable, seconds
from agentbus.receive.delivery import Delivery
from agentbus.receive.incarnation import Incarnation
from agentbus.receive.outcome import RELEASED
from agentbus.receive.subscriber import Subscriber, until_ready


class PulledDelivery(Delivery):
    """A delivery in the hands of user code: it must be settled within the acknowledgement timeout.

    ``async with delivery:`` settles it: leaving means processed, an exception means retry. Letting go of it
    without settling hands it back, with a warning.
    """

    __slots__ = ("__weakref__", "_agent", "_before", "_inner", "_span")

    def __init__(self, inner: Delivery, agent: str, span: AbstractContextManager[object]) -> None:
        self._inner = inner
        self._agent = agent
        #: Open while the caller is in the delivery's block.
        self._span = span
        self.source, self.entry, self.arrived = inner.source, inner.entry, inner.arrived
        self.state, self.message, self._settler = inner.state, inner.message, inner._settler
        self.answered, self.suspect, self.receipt = inner.answered, inner.suspect, inner.receipt

    @property
    def outcome(self) -> Any:  # type: ignore[override]
        """How it ended here, if it has."""
        return self._inner.outcome

    @property
    def revoked(self) -> bool:  # type: ignore[override]
        """Whether the lease was lost."""
        return self._inner.revoked

    async def _settle(self, outcome: Any) -> None:
        await self._inner._settle(outcome)

    async def __aenter__(self) -> PulledDelivery:
        # What the block sends is caused by this message, as if a handler sent it.
        self._before = HANDLED.get()
        HANDLED.set((self.message, self._agent))
        self._span.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        HANDLED.set(self._before)
        self._span.__exit__(kind, error, trace)
        await super().__aexit__(kind, error, trace)


class Puller:
    """Pulls deliveries from one subscriber."""

    def __init__(self, subscriber: Subscriber, events: Events) -> None:
        self._subscriber = subscriber
        self._events = events
        self._task: asyncio.Task[None] | None = None
        #: Askers being told that their request was not settled in time.
        self._telling: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Join; raises what joining raises."""
        self._task = asyncio.create_task(self._subscriber.run(runners=0), name="agentbus pull")
        await until_ready(self._task, (self._subscriber,))

    async def close(self) -> None:
        """Hand back what is unsettled and leave."""
        self._subscriber.stop()
        if self._task is not None:
            await self._task

    async def next(self, timeout: Duration | None = None) -> PulledDelivery | None:
        """Return the next delivery; None when none came within ``timeout``."""
        limit = None if timeout is None else seconds(timeout, "timeout")
        try:
            async with asyncio.timeout(limit):
                return await self._next()
        except TimeoutError:
            return None

    async def deliveries(self) -> AsyncGenerator[PulledDelivery, None]:
        """Yield deliveries as they come; closing the generator hands back the last one if unsettled."""
        while True:
            delivery = await self._next()
            try:
                yield delivery
            except GeneratorExit:
                # The loop was left: what nobody has settled goes back at once.
                if not delivery.settled:
                    await delivery.release()
                raise

    async def _next(self) -> PulledDelivery:
        while True:
            incarnation = await self._present()
            inner = incarnation.workload.take()
            if inner is None:
                await self._wait_work(incarnation)
                continue
            try:
                pulled = await self._begin(incarnation, inner)
            except BaseException:
                # The caller gave up in between: without this nobody would ever settle the message.
                incarnation.settler.settle(inner, RELEASED)
                incarnation.workload.finished(inner, 0.0, time.monotonic())
                raise
            if pulled is not None:
                return pulled

    async def _begin(self, incarnation: Incarnation, inner: Delivery) -> PulledDelivery | None:
        """Hand out a delivery, or end one that is not to be handled."""
        ended = self._subscriber.execution.open(inner)
        if ended is None:
            if inner.suspect:
                await incarnation.mark_started(inner)
            return self._hand_out(incarnation, inner)
        await self._subscriber.execution.answer(inner, ended)
        incarnation.settler.settle(inner, ended)
        incarnation.workload.finished(inner, 0.0, time.monotonic())
        return None

    async def _present(self) -> Incarnation:
        """Return the present incarnation, once it may start work."""
        while True:
            if self._task is not None and self._task.done():
                self._task.result()
                raise RuntimeError("the subscriber was closed")
            incarnation = self._subscriber.incarnation
            if incarnation is not None and incarnation.lost is None and incarnation.lease.holds:
                return incarnation
            await asyncio.sleep(0.02)

    async def _wait_work(self, incarnation: Incarnation) -> None:
        work = asyncio.ensure_future(incarnation.workload.wait_work())
        ended = asyncio.ensure_future(incarnation.ended.wait())
        try:
            await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            ended.cancel()

    def _hand_out(self, incarnation: Incarnation, inner: Delivery) -> PulledDelivery:
        subscriber = self._subscriber
        span = subscriber.execution.spans.of(inner) or contextlib.nullcontext()
        pulled = PulledDelivery(inner, subscriber.agent.name, span)
        loop = asyncio.get_running_loop()
        finished = _Finish(incarnation, inner)
        timeout = self._patience(inner)
        limit = loop.call_later(timeout, self._timed_out, inner, finished, timeout)
        finished.limit = limit
        inner.on_settled = finished.done

        def dropped() -> None:
            # The collector may run in any thread, and after the loop has ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._dropped, inner, finished)

        weakref.finalize(pulled, dropped).atexit = False
        return pulled

    def _patience(self, inner: Delivery) -> float:
        """Seconds a delivery may stay unsettled: the declared policy, else the agent's setting."""
        policy = self._subscriber.policy(inner.address, inner.message.message_type)
        declared = policy.acknowledgement_timeout
        chosen = self._subscriber.agent.settings.pulled_timeout if declared is None else declared
        return seconds(chosen, "pulled_timeout")

    def _timed_out(self, inner: Delivery, finished: _Finish, timeout: float) -> None:
        if inner.outcome is None and not inner.revoked:
            error = TimeoutError(f"not settled within {readable(timeout)}")
            outcome = self._subscriber.execution.failed(inner, error)
            telling = asyncio.create_task(self._subscriber.execution.answer(inner, outcome))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
            finished.incarnation.settler.settle(inner, outcome)
            finished.done()

    def _dropped(self, inner: Delivery, finished: _Finish) -> None:
        if inner.outcome is None and not inner.revoked:
            self._events.emit(
                "dropped_delivery",
                inner.address,
                f"message {inner.message.message_id} was let go without being settled; it is handed back",
                message_id=inner.message.message_id,
            )
            finished.incarnation.settler.settle(inner, RELEASED)
        # Also after the lease was lost: a suspect that never ends would keep all others of this process back.
        finished.done()


class _Finish:
    """What ends with a pulled delivery: its timer and its place among the running ones."""

    __slots__ = ("_inner", "_over", "incarnation", "limit")

    def __init__(self, incarnation: Incarnation, inner: Delivery) -> None:
        self.incarnation = incarnation
        self._inner = inner
        self.limit: asyncio.TimerHandle | None = None
        self._over = False

    def done(self) -> None:
        if not self._over:
            self._over = True
            if self.limit is not None:
                self.limit.cancel()
            self.incarnation.workload.finished(self._inner, 0.0, time.monotonic())
