"""The door to recurring messages: `Bus.schedules`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

from agentbus.broker.schedules import SELF_TIMED, ScheduleState, ScheduleStore, StoredSchedule
from agentbus.broker.wake import Wake
from agentbus.errors import BrokerError, BrokerUnavailable, InvalidTopic, InvalidValue, NoSuchSchedule
from agentbus.message.backoff import Backoff
from agentbus.message.durations import Duration, instant_milliseconds, milliseconds
from agentbus.message.policy import Priority, Retry
from agentbus.message.topics import Destination, Topic, check_name, parse_address
from agentbus.schedules.definition import Definition, template_of
from agentbus.schedules.misfire import Misfire
from agentbus.schedules.schedule import Schedule, schedule_of, split_id
from agentbus.schedules.spec import first_tick, next_tick, parse_spec, upcoming
from agentbus.schedules.zones import time_zone

#: Seconds for which adding is repeated after a reply was lost.
_PATIENCE = 10.0
#: Addresses asked at once whether they have schedules.
_STEP = 200


class ScheduleOptions(TypedDict, total=False):
    """What can be said about a schedule besides when and what it sends."""

    #: The second part of its id. Adding the same again under the same name changes nothing; left out, a new
    #: one is made up by each call.
    name: str
    #: A tick that is later than this counts as missed; a minute when left out.
    grace: Duration
    #: critical, high, normal (the default), low or background.
    priority: Priority
    #: How long after its tick a message is worth handling.
    ttl: Duration
    #: How often and how fast a message is tried again.
    retry: Retry
    #: False: settled before it is handled, so that it runs at most once.
    require_ack: bool
    #: What the sender knew when it wrote the body.
    context: Mapping[str, Any]
    #: Anything else; kept with the schedule and sent with each message.
    metadata: Mapping[str, Any]
    correlation_id: str
    session_id: str
    project: str
    #: Further envelope fields of your own.
    extra: Mapping[str, Any]


_OWN_OPTIONS = ("name", "grace")


class Composed(Protocol):
    """A message on its way out; the way out itself is another room."""

    @property
    def destination(self) -> Destination: ...
    @property
    def lane(self) -> int: ...
    @property
    def text(self) -> bytes: ...


Compose = Callable[[str | Topic[Any, Any], Any, dict[str, Any]], Composed]


class When(NamedTuple):
    """When something recurs, as its user says it."""

    schedule: str
    timezone: str
    expires_at: datetime | str | None
    misfire: str


class Schedules:
    """Adds, shows and changes recurring messages. Workers send them: ``python -m workers recurring``."""

    def __init__(
        self,
        store: ScheduleStore,
        ticking: Wake,
        compose: Compose,
        addresses: Callable[[], Awaitable[Sequence[str]]],
        owner: str | None,
    ) -> None:
        self._store = store
        self._ticking = ticking
        self._compose = compose
        self._addresses = addresses
        self._owner = owner

    async def add(
        self,
        topic: str | Topic[Any, Any],
        body: Any,
        schedule: str,
        *,
        timezone: str = "UTC",
        expires_at: datetime | str | None = None,
        misfire: str = "once",
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Send a message again and again: one at each tick of ``schedule``, however many workers run.

        ``schedule`` is a cron expression of five fields on the clock of ``timezone``, ``interval:<seconds>``
        counted from now, or ``at:<time>``. After ``expires_at`` nothing ticks. ``misfire`` says what happens
        to ticks that nobody could send in time: ``skip``, ``once`` or ``all:<most>``. ``{{tick_time}}``,
        ``{{tick_number}}`` and ``{{schedule_id}}`` in the texts of the body are filled in.

        Raises `InvalidValue` that names the field and what would be right.
        """
        unknown = options.keys() - ScheduleOptions.__annotations__.keys()
        if unknown:
            known = ", ".join(sorted(ScheduleOptions.__annotations__))
            raise InvalidValue(sorted(unknown)[0], f"is not an option of a schedule; those are {known}")
        name = check_name(options["name"]) if "name" in options else secrets.token_hex(4)
        when = When(schedule, timezone, expires_at, misfire)
        address, definition, first_ms = await self._define(topic, body, when, options)
        known_text = await self._stored(address, name, definition.to_json(), first_ms)
        if known_text is not None and known_text != definition.to_json():
            return await self._known(address, name, definition, known_text)
        await self._announce(address, first_ms)
        state = ScheduleState(next_send_at=first_ms)
        return schedule_of(StoredSchedule(address, name, definition.to_json(), state))

    async def list(self, address: str | None = None) -> tuple[Schedule, ...]:
        """Return the schedules of one address, or all, in the order of their ids.

        ``address`` is ``agent.<name>``, a channel, or the bare name of an agent.
        """
        found: dict[str, Schedule] = {}
        for where in await self._searched(address):
            async for stored in self._store.all_at(where):
                # What somebody wrote by hand is no schedule, and hides no others.
                with contextlib.suppress(InvalidValue):
                    schedule = schedule_of(stored)
                    found[schedule.id] = schedule
        return tuple(found[schedule_id] for schedule_id in sorted(found))

    async def get(self, schedule_id: str) -> Schedule:
        """Return one schedule; raises `NoSuchSchedule`."""
        stored = await self._read(schedule_id)
        return schedule_of(stored)

    async def pause(self, schedule_id: str) -> Schedule:
        """Stop sending until `resume`; what would have been sent meanwhile is not missed. Returns it paused.

        Raises `NoSuchSchedule`, and `InvalidValue` when it has had its last tick.
        """
        address, name = split_id(schedule_id)
        self._check(schedule_id, await self._store.pause(address, name))
        return await self.get(schedule_id)

    async def resume(self, schedule_id: str) -> Schedule:
        """Go on with the next tick from now. Returns it resumed; one that was not paused stays as it is.

        Raises `NoSuchSchedule`, and `InvalidValue` when no tick is left.
        """
        found = await self._read(schedule_id)
        definition = Definition.from_json(found.definition)
        next_ms = next_tick(definition.spec(), await self._store.server_ms(), definition.expires_at)
        if next_ms is None:
            if found.state.enabled and found.state.ended_at is None:
                return schedule_of(found)
            raise InvalidValue("id", f"{schedule_id} has no tick left; cancel it, and add a new one")
        self._check(schedule_id, await self._store.resume(found.address, found.id, next_ms))
        await self._announce(found.address, next_ms)
        return await self.get(schedule_id)

    async def cancel(self, schedule_id: str) -> None:
        """Remove a schedule; raises `NoSuchSchedule`. What it has sent stays."""
        if not await self._store.cancel(*split_id(schedule_id)):
            raise NoSuchSchedule(_missing(schedule_id))

    async def next_ticks(self, schedule_id: str, most: int = 5) -> tuple[datetime, ...]:
        """Return the next ticks of a schedule; of a paused one those it would have if it went on now.

        Raises `NoSuchSchedule`.
        """
        stored = await self._read(schedule_id)
        definition = Definition.from_json(stored.definition)
        # A tick that came and was not sent yet is still to be sent.
        begin_ms = await self._store.server_ms()
        if stored.state.next_send_at is not None:
            begin_ms = min(begin_ms, stored.state.next_send_at - 1)
        ticks = upcoming(definition.spec(), begin_ms, definition.expires_at, most)
        return tuple(datetime.fromtimestamp(tick / 1000, UTC) for tick in ticks)

    # --- inside ---

    async def _read(self, schedule_id: str) -> StoredSchedule:
        stored = await self._store.read(*split_id(schedule_id))
        if stored is None:
            raise NoSuchSchedule(_missing(schedule_id))
        return stored

    async def _define(
        self, topic: str | Topic[Any, Any], body: Any, when: When, options: ScheduleOptions
    ) -> tuple[str, Definition, int]:
        """Return address, definition and first tick of a new schedule."""
        zone = time_zone(when.timezone)
        Misfire.parse(when.misfire)
        grace_ms = milliseconds(options.get("grace", 60.0), "grace")
        passed_on = {name: value for name, value in options.items() if name not in _OWN_OPTIONS}
        composed = self._compose(topic, body, passed_on)
        address = composed.destination.address
        if address == SELF_TIMED:
            raise InvalidTopic("topic", f"{address} is the bus's own, which sends there by itself")
        expires_at = None if when.expires_at is None else instant_milliseconds(when.expires_at, "expires_at")
        now_ms = await self._store.server_ms()
        spec = parse_spec(when.schedule, zone, now_ms)
        definition = Definition(
            topic=composed.destination.topic,
            schedule=when.schedule.strip(),
            timezone=when.timezone,
            owner=self._owner,
            created_at=now_ms,
            expires_at=expires_at,
            misfire=when.misfire,
            grace_ms=grace_ms,
            lane=composed.lane,
            message=template_of(composed.text),
        )
        return address, definition, first_tick(spec, now_ms, expires_at)

    async def _stored(self, address: str, name: str, text: bytes, first_ms: int) -> bytes | None:
        """Store a definition; returns the one that is there already when the name is taken.

        Once it is uncertain whether it is stored, it is stored again under the same name: that adds nothing,
        while whoever is told of the error and adds it anew, without a name, has two.
        """
        backoff, sent = Backoff(), False
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._store.add(address, name, text, first_ms)
            except BrokerUnavailable as error:
                sent = sent or error.uncertain
                if not sent:
                    raise
                if time.monotonic() > deadline:
                    again = f"it may be stored; adding it again with name={name!r} makes no second one"
                    raise BrokerUnavailable(f"{error}; {again}", uncertain=True) from error
            await asyncio.sleep(backoff.next_pause())

    async def _known(self, address: str, name: str, wanted: Definition, text: bytes) -> Schedule:
        if not wanted.is_same(Definition.from_json(text)):
            raise InvalidValue(
                "name",
                f"{name!r} is another schedule of {address}; cancel {address}:{name}, or choose another",
            )
        return await self.get(f"{address}:{name}")

    async def _searched(self, address: str | None) -> Sequence[str]:
        if address is not None:
            return [parse_address(address)]
        found: list[str] = []
        every = await self._addresses()
        for start in range(0, len(every), _STEP):
            found += await self._store.have_schedules(every[start : start + _STEP])
        return found

    async def _announce(self, address: str, next_ms: int) -> None:
        # It is stored: a worker's slow sweep finds it, if this cannot be said now.
        with contextlib.suppress(BrokerError):
            await self._ticking.announce(address, next_ms)

    def _check(self, schedule_id: str, answer: str) -> None:
        if answer == "unknown":
            raise NoSuchSchedule(_missing(schedule_id))
        if answer == "ended":
            raise InvalidValue("id", f"{schedule_id} has had its last tick; add a new one")


def _missing(schedule_id: str) -> str:
    return f"there is no schedule {schedule_id} (any more); `agentbus schedule ls` shows those there are"
