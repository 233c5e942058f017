"""Asking: one agent, whoever has a capability, everybody on a channel, answers in parts."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
)
from typing import TYPE_CHECKING, Any, Unpack

from agentbus.facade.calls import Calls
from agentbus.message.durations import Duration
from agentbus.send.envelope import AnyTopic, MessageOptions, PublishOptions

if TYPE_CHECKING:
    from agentbus.send.collecting import Answers, Collecting


class AskingCalls(Calls):
    """What is asked and answered."""

    async def request(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        reply: type[Any] | None = None,
        timeout: Duration = 30.0,
        **options: Unpack[PublishOptions],
    ) -> Any:
        """Ask, and return the content of the answer, as ``reply`` if given.

        Raises `RequestTimeout`, or `RequestFailed` at once when the request was rejected or its handler
        failed for good.
        """
        from agentbus.send.requests import Requests

        rooms = self.rooms
        return await Requests(rooms.publisher, rooms.replies).request(topic, body, reply, timeout, options)

    def stream(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        timeout: Duration = 30.0,
        idle_timeout: Duration | None = None,
        part: type[Any] | None = None,
        mark_restarts: bool = False,
        **options: Unpack[PublishOptions],
    ) -> AsyncGenerator[Any, None]:
        """Ask, and yield the parts of the answer as they come, each as ``part`` if given.

        ``timeout`` is for the whole answer, ``idle_timeout`` until the first part and between two. A handler
        that sends no parts has one: what it returns. When the handler begins anew (a retry, another owner
        after a death), `StreamRestarted` is raised, or with ``mark_restarts`` a `Restarted` yielded: parts
        before it are not part of the answer. Raises also `PartsMissing`, and what `request` raises.
        """
        from agentbus.send.streaming import StreamOptions, Streams

        how = StreamOptions.of(timeout, idle_timeout, part, mark_restarts)
        return Streams(self.rooms.publisher, self.rooms.replies).stream(topic, body, how, options)

    def collecting(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        deadline: Duration = 30.0,
        expect: int | None = None,
        reply: type[Any] | None = None,
        **options: Unpack[MessageOptions],
    ) -> Collecting:
        """Ask everybody who subscribes to a channel; iterate over the answers as they come.

        Ends when all who subscribed at the time of asking have answered (with ``expect``: when so many
        answers came), or at the deadline. Of each agent the first answer counts. Raises `InvalidTopic`,
        `InvalidValue`, `RequestTimeout` when the question could not be stored, and what `publish` raises.
        """
        from agentbus.send.collecting import Collecting, OpenQuestion

        rooms = self.rooms
        question = OpenQuestion.of(topic, body, reply, deadline, expect, options)
        return Collecting(rooms.broker, self.settings.prefix, rooms.publisher, rooms.replies, question)

    async def collect(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        deadline: Duration = 30.0,
        expect: int | None = None,
        reply: type[Any] | None = None,
        **options: Unpack[MessageOptions],
    ) -> Answers:
        """Ask everybody who subscribes to a channel, and return all answers; see `collecting`."""
        asking = self.collecting(topic, body, deadline=deadline, expect=expect, reply=reply, **options)
        return await asking.all()
