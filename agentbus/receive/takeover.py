"""Taking over from the dead: one judgement and one way, for subscribers and for workers.

Whoever wants to judge others must itself have been able to see and to write, without a break, for as long as
it says that they stood still. That is a property of a process, not of an address: a worker that looks at ten
thousand addresses comes to each of them every few seconds, and has stood still for none of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from agentbus.errors import AgentBusError, MalformedMessage
from agentbus.events import Events
from agentbus.message.codec import decode
from agentbus.receive.delivery import Answer
from agentbus.receive.lease import BEAT_INTERVAL, clock
from agentbus.receive.liveness import Observations, Vigil
from agentbus.receive.outcome import Kind, Outcome
from agentbus.receive.place import Place

#: Told of each dead letter that a takeover made: the inbox, and the messages as JSON text.
Told = Callable[[Place, Sequence[bytes]], Awaitable[None]]
#: Told of dead letters that found no room: the address, and how many.
ToldParked = Callable[[str, int], None]
#: Returns when the last of this process's own beats that was answered was sent, on `lease.clock`; None when
#: it has lost its right to judge.
OwnBeat = Callable[[], float | None]


class Judge:
    """Whether this process may judge others now, and since when it could. One for all its addresses."""

    def __init__(self, lease_seconds: float, own_beat: OwnBeat) -> None:
        self.lease_seconds = lease_seconds
        self.vigil = Vigil(lease_seconds)
        self._own_beat = own_beat

    def sound(self, asked_at: float) -> bool:
        """Whether a look that was asked for at ``asked_at`` and has just been answered can be trusted.

        It was answered in time, this process did not stand still, and its own beats are accepted. An unsound
        look makes everything seen before worthless.
        """
        now = clock()
        self.vigil.tick(now)
        own = self._own_beat()
        if now - asked_at < BEAT_INTERVAL and own is not None and now - own < 2.5 * BEAT_INTERVAL:
            self.vigil.saw(now)
            return True
        self.vigil.doubt()
        return False

    def doubt(self) -> None:
        """Something else went wrong, such as a lost connection: begin every wait anew."""
        self.vigil.doubt()


class Takeover:
    """Takes over from the dead of one address."""

    def __init__(
        self, inbox: Place, judge: Judge, tell_dead: Told, tell_parked: ToldParked | None = None
    ) -> None:
        self._inbox = inbox
        self._tell_parked = tell_parked
        self._judge = judge
        self._tell_dead = tell_dead
        self._observations = Observations(judge.lease_seconds)

    def look(self, beats: Mapping[str, str], seen_at: float) -> list[tuple[str, str]]:
        """Note the beats of a sound look; returns (consumer, beat) of those who are dead."""
        return self._observations.look(seen_at, beats, self._judge.vigil.since)

    def look_alone(self) -> None:
        """Note that nobody else lives here, by the answer to one's own beat: who comes is watched anew."""
        self._judge.vigil.tick(clock())
        self._observations.forget()

    async def take(self, dead: Iterable[tuple[str, str]], seen_at: float) -> int:
        """Take everything from the dead that were seen at ``seen_at``; returns how many messages moved.

        A verdict is used while it is fresh: a process that was frozen between the look and the takeover may
        have been frozen together with those it judged.
        """
        moved = 0
        for consumer, beat in dead:
            if clock() - seen_at >= BEAT_INTERVAL:
                break
            moved += await self._take(consumer, beat)
        return moved

    async def take_own(self, consumer: str) -> None:
        """Take from a consumer of this process that has lost its lease and runs nothing any more."""
        # A beat that was on its way may still have moved: then it is read once more.
        while (beat := (await self._inbox.beats()).get(consumer)) is not None:
            await self._take(consumer, beat)

    async def take_from_strangers(self, strangers: Iterable[str]) -> int:
        """Take from names that are not alive: they hold nothing by right, and go when they hold nothing."""
        moved = 0
        for name in strangers:
            moved += await self._take(name, "")
        return moved

    async def _take(self, consumer: str, beat: str) -> int:
        moved = 0
        step = await self._inbox.reclaim(consumer, beat)
        while step is not None:
            moved += step.moved
            if step.dead:
                await self._tell_dead(self._inbox, step.dead)
            if step.parked and self._tell_parked is not None:
                self._tell_parked(self._inbox.address, step.parked)
            if not step.more:
                break
            step = await self._inbox.reclaim(consumer, "")
        return moved


def parked_event(events: Events) -> ToldParked:
    """Return what says that dead letters found no room."""

    def tell(address: str, count: int) -> None:
        events.emit("dead_letters_full", address, f"{count} dead letters are parked until there is room")

    return tell


class Obituary:
    """Tells of the dead letters that takeovers made: in the log, and to whoever asked and waits."""

    def __init__(self, events: Events, answer: Answer) -> None:
        self._events = events
        self._answer = answer

    async def tell(self, inbox: Place, texts: Sequence[bytes]) -> None:
        """Tell of some; one that cannot be told does not keep the others from being told."""
        outcome = Outcome(Kind.DEAD, reason="crashed", detail="its owners died while running it")
        for text in texts:
            try:
                message = decode(text)
                self._events.emit(
                    "dead_letter",
                    inbox.address,
                    f"{message.message_type} {message.message_id}: crashed: {outcome.detail}",
                    message_id=message.message_id,
                    reason="crashed",
                )
                if message.reply_to is not None:
                    await self._answer(message, None, outcome)
            except (MalformedMessage, AgentBusError):
                continue
