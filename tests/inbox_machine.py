"""A state machine that drives one inbox on a real server and a plain model of it side by side."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentbus.broker.answers import RawEntry
from agentbus.broker.cancelling import Cancelling, Spot
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.inbox import Inbox
from agentbus.broker.inspection.look import format_id
from agentbus.broker.keys import SOURCES
from agentbus.broker.parked_read import park
from agentbus.broker.scripts import run
from agentbus.errors import BrokerRefused, StaleDelivery
from agentbus.message.policy import PRIORITIES
from tests.model import LONG_MS, SHORT_MS, InboxModel, Message, Wish, parse_id
from tests.snapshot import Snapshot

#: Small, so that takeovers need several steps.
STEP = 3
WINDOW_MS = 24 * 3_600_000
#: States that no script writes: each reads as if there was none.
ODD_STATES = (
    '{"attempt":"x","crashes":null,"bounces":[],"expires":1e999}',
    '{"lane":7,"crashes":-1,"held":1}',
    "[1,2]",
    "no json",
    '{"expires":"soon","first_failure":1e999}',
)

wishes = st.lists(
    st.builds(
        Wish,
        lane=st.sampled_from(PRIORITIES),
        ttl=st.sampled_from((None, None, None, SHORT_MS, LONG_MS)),
        delay=st.sampled_from((None, None, None, 1, LONG_MS)),
        key=st.one_of(
            st.none(), st.none(), st.tuples(st.sampled_from(("k1", "k2")), st.sampled_from(("d1", "d2")))
        ),
        strict=st.sampled_from((False, False, False, True)),
    ),
    min_size=1,
    max_size=6,
)
picks = st.lists(st.integers(0, 30), max_size=5)


class InboxMachine(RuleBasedStateMachine):
    """Every rule is one verb; after each, server and model must tell the same story."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.broker = Broker(ConnectionSettings(self.url))
        self.control = redis.Redis.from_url(self.url, protocol=2)
        self.inbox = Inbox(self.broker, "model", f"agent.a{secrets.token_hex(6)}")
        self.model = InboxModel()
        self.numbers = itertools.count()
        #: Everything each consumer was ever handed, settled or not.
        self.seen: dict[str, list[tuple[Message, RawEntry]]] = {}
        self.fenced: list[str] = []
        #: Publisher to (next position, its last batch with the expected answers).
        self.publishers: dict[str, tuple[int, list[Any] | None]] = {"p1": (1, None), "p2": (1, None)}
        self.look()

    def teardown(self) -> None:
        self.control.unlink(*self.control.keys(f"model:{{{self.inbox.address}}}:*") or ["-"])
        self.control.close()
        if hasattr(self, "link"):
            self.run(self.link.close())
        self.run(self.broker.close())
        self.loop.close()

    # --- means ---

    def run(self, step: Any) -> Any:
        return self.loop.run_until_complete(step)

    def look(self) -> Snapshot:
        self.server = Snapshot.take(self.control, self.inbox.keys)
        self.model.listed = set(self.server.listed)
        self.model.alive = dict(self.server.alive)
        return self.server

    def wait_past(self, milliseconds: int) -> None:
        """Wait until the server's clock has gone on: what is short has ended then."""
        end = self.now_ms() + milliseconds + 1
        while self.now_ms() < end:
            pass

    def now_ms(self) -> int:
        seconds, micros = self.control.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def new_tag(self) -> str:
        return f"m{next(self.numbers)}"

    def consumer(self, pick: int) -> str | None:
        """One that may have been fenced since."""
        names = [*self.seen]
        return names[pick % len(names)] if names else None

    def pick_held(self, consumer: str, chosen: list[int]) -> list[tuple[Message, RawEntry]]:
        """Deliveries that a consumer once had; many are settled by now."""
        had = self.seen[consumer]
        places = dict.fromkeys(index % len(had) for index in chosen) if had else ()
        return [had[-1 - place] for place in places]

    def still(self, consumer: str, message: Message, entry: RawEntry) -> bool:
        same = (message.source, message.entry) == (entry.source, parse_id(entry.entry_id))
        return message.place == "held" and message.owner == consumer and same

    def refused(self, consumer: str, step: Any) -> bool:
        """Whether the verb was refused because the lease is lost; it must be then, and only then."""
        try:
            self.answer = self.run(step)
        except StaleDelivery:
            assert consumer not in self.model.alive, "a living consumer was refused"
            return True
        assert consumer in self.model.alive, "a fenced consumer was served"
        return False

    # --- the way out ---

    @initialize(ages=st.lists(st.tuples(st.integers(1, 5), st.integers(-400_000, 900_000)), max_size=8))
    def old_entries(self, ages: list[tuple[int, int]]) -> None:
        """Entries of all ages, some from the future (the clock was set back), made by hand."""
        now = self.now_ms()
        for number, (source, age) in enumerate(sorted(ages, key=lambda one: -one[1])):
            tag = self.new_tag()
            # Some are suspects already: three deaths of one message are rare in thirty steps.
            crashes = number % 3
            self.model.add_by_hand(tag, source, malformed=False, crashes=crashes)
            fields = {"message": envelope(tag)} | ({"state": f'{{"crashes":{crashes}}}'} if crashes else {})
            self.control.xadd(self.inbox.keys.sources[source], fields, id=f"{now - age}-{number + 1}")
        self.sweep()

    @rule(producer=st.sampled_from(("p1", "p2")), batch=wishes, limit=st.sampled_from((4, 12, 1000, 1000)))
    def publish(self, producer: str, batch: list[Wish], limit: int) -> None:
        first, _ = self.publishers[producer]
        tagged = [(self.new_tag(), wish) for wish in batch]
        expected = self.model.publish(tagged, limit)
        call = (
            producer, first, "".join(str(PRIORITIES.index(wish.lane)) for wish in batch), options(tagged),
            [envelope(tag).encode() for tag, _ in tagged], (600_000, limit, WINDOW_MS),
        )  # fmt: skip
        answer = self.run(self.inbox.publish(*call))
        assert answer.kind == "stored" and answer.known == self.model.served
        assert [short(text) for text in answer.results] == expected
        self.publishers[producer] = (first + len(batch), [call, expected])
        self.wait_past(SHORT_MS)

    @rule(producer=st.sampled_from(("p1", "p2")))
    def publish_again(self, producer: str) -> None:
        """The reply was lost: the same batch comes once more."""
        _, last = self.publishers[producer]
        if last is None:
            return
        call, expected = last
        answer = self.run(self.inbox.publish(*call))
        refusals = {index: text for index, text in enumerate(expected, 1) if text.startswith("!")}
        assert answer.kind == "recovered"
        assert {int(at): short(b"!" + text.encode()) for at, text in answer.refusals.items()} == refusals

    @rule(producer=st.sampled_from(("p1", "p2")), skip=st.sampled_from((-1, 1, 5)))
    def publish_out_of_turn(self, producer: str, skip: int) -> None:
        first, _ = self.publishers[producer]
        first += skip
        answer = self.run(
            self.inbox.publish(producer, first, "22222222", "", [b"{}"] * 8, (600_000, 1000, WINDOW_MS))
        )
        assert (answer.kind, answer.last) == ("gap", first - skip - 1)

    @rule(source=st.integers(1, 5), state=st.sampled_from((None, *ODD_STATES)), malformed=st.booleans())
    def add_by_hand(self, source: int, state: str | None, malformed: bool) -> None:
        tag = self.new_tag()
        fields = {"note": tag} if malformed else {"message": envelope(tag)}
        self.control.xadd(self.inbox.keys.sources[source], fields | ({"state": state} if state else {}))
        self.model.add_by_hand(tag, source, malformed)

    # --- taking part ---

    @precondition(lambda self: len(self.model.alive) < 4)
    @rule()
    def join(self) -> None:
        name = f"c{next(self.numbers)}"
        joined = self.run(self.inbox.join(name))
        assert joined.served_before == self.model.served
        self.model.served = True
        self.seen[name] = []

    @rule(pick=st.integers(0, 5))
    def join_again(self, pick: int) -> None:
        name = self.consumer(pick)
        if name not in self.model.alive:
            return
        try:
            self.run(self.inbox.join(name))
        except BrokerRefused:
            return
        raise AssertionError("two consumers of one name")

    @rule(pick=st.integers(0, 5), phase=st.sampled_from(("serving", "serving", "draining")))
    def beat(self, pick: int, phase: str) -> None:
        name = self.consumer(pick)
        if name is None:
            return
        call = self.inbox.beat(name, 3, phase)
        accepted = self.run(run(self.broker, call))[0] == 1
        assert accepted == (name in self.model.alive)
        before = self.model.alive.get(name)
        if before is not None:
            self.model.alive[name] = f"{int(before.split()[0]) + 1} 3 {phase}"

    @rule(pick=st.integers(0, 5))
    def leave(self, pick: int) -> None:
        name = self.consumer(pick)
        if name is None or not self.model.served:
            return
        left = self.run(self.inbox.leave(name))
        assert left == len(self.model.held_by(name))
        if self.model.alive.pop(name, None) is not None:
            self.model.started.pop(name, None)
        if not left:
            self.model.taken_over(name)

    @rule(pick=st.integers(0, 5), most=st.integers(1, 6))
    def fetch(self, pick: int, most: int) -> None:
        name = self.consumer(pick)
        before = self.now_ms()
        if name is None or self.refused(name, self.inbox.fetch(name, most, 1 << 20)):
            return
        taken = [tag_of(entry) for entry in self.answer]
        # The order changes with the clock (an id of the future counts as now), and the script's own reading
        # lies between these two.
        now = next(
            (at for at in (before, self.now_ms()) if self.model.would_fetch(most, at) == taken), before
        )
        expected = self.model.fetch(name, most, now)
        right = [one.tag for one in expected]
        assert taken == right, f"handed out {taken}, not {right}, at {now}: {self.server.streams}"
        for message, entry in zip(expected, self.answer, strict=True):
            assert counters(entry) == (message.attempt, message.crashes, message.bounces)
        self.seen[name] += zip(expected, self.answer, strict=True)

    @rule(pick=st.integers(0, 5))
    def parked_read(self, pick: int) -> None:
        """What a parked read takes: one entry of each stream, and nobody asks who is alive."""
        name = self.consumer(pick)
        if name is None or not self.model.at("waiting"):
            return
        heads = [self.model.waiting(source)[0] for source in range(6) if self.model.waiting(source)]
        try:
            taken = self.run(park(self.broker_link(), [self.inbox], name, 1))
        except StaleDelivery:
            # Where anything is marked, somebody asks: what a fenced one was handed is taken over from it.
            assert name not in self.model.alive and self.control.exists(self.inbox.keys.cancelled)
            for message in heads:
                self.model.take_natively(name, message)
            return
        for message in [one for one in heads if one.cancelled]:
            self.model.end_cancelled(message)
            heads.remove(message)
        assert [tag_of(entry) for _, entry in taken] == [one.tag for one in heads]
        for message, (_, entry) in zip(heads, taken, strict=True):
            self.model.take_natively(name, message)
            self.seen[name].append((message, entry))

    @rule(pick=st.integers(0, 5))
    def parked_read_without_a_reply(self, pick: int) -> None:
        """The server handed out, and the consumer never heard of it, nor looked for what was cancelled."""
        name = self.consumer(pick)
        heads = [self.model.waiting(source)[0] for source in range(6) if self.model.waiting(source)]
        if name is None or not heads:
            return
        streams = {self.inbox.keys.sources[one.source]: ">" for one in heads}
        self.control.xreadgroup("inbox", name, streams, count=1)
        for message in heads:
            self.model.take_natively(name, message)

    @rule(chosen=st.integers(0, 60))
    def cancel(self, chosen: int) -> None:
        open_ones = [
            one
            for one in self.model.messages.values()
            if one.place in ("waiting", "held", "due") and not one.cancelled and not one.vanished
        ]
        if not open_ones or not self.model.served:
            return
        message = open_ones[chosen % len(open_ones)]
        spot = self.spot_of(message)
        answers = self.run(Cancelling(self.broker, "model", self.inbox.address).cancel("me", [spot]))
        assert answers == [self.model.cancel(message)]

    def spot_of(self, message: Message) -> Spot:
        if message.place != "due":
            assert message.entry is not None
            return Spot(SOURCES[message.source], format_id(message.entry), b"")
        found: Any = self.control.hgetall(self.inbox.keys.delayed)
        names = [
            name
            for name, text in found.items()
            if b'"tag"' in text and json.loads(text)["tag"] == message.tag
        ]
        return Spot("due", names[0].decode(), b"")

    def broker_link(self) -> Any:
        if not hasattr(self, "link"):
            self.link = self.broker.open_link()
        return self.link

    # --- settling ---

    @rule(
        pick=st.integers(0, 5), chosen=picks, outcome=st.sampled_from(("processed", "discarded", "expired"))
    )
    def settle(self, pick: int, chosen: list[int], outcome: str) -> None:
        name = self.consumer(pick)
        if name is None:
            return
        had = self.pick_held(name, chosen)
        if self.refused(name, self.inbox.settle(name, outcome, by_source(had))):
            return
        open_ones = [message for message, entry in had if self.still(name, message, entry)]
        assert self.answer == self.model.settle(outcome, open_ones)

    @rule(pick=st.integers(0, 5), chosen=picks)
    def release(self, pick: int, chosen: list[int]) -> None:
        name = self.consumer(pick)
        if name is None:
            return
        had = self.pick_held(name, chosen)
        if self.refused(name, self.inbox.release(name, by_source(had))):
            return
        open_ones = [message for message, entry in had if self.still(name, message, entry)]
        assert self.answer == self.model.release(open_ones)

    @rule(
        pick=st.integers(0, 5),
        chosen=st.integers(0, 9),
        kind=st.sampled_from(("retried", "deferred", "bounced")),
        delay=st.sampled_from((0, 1, LONG_MS)),
    )
    def postpone(self, pick: int, chosen: int, kind: str, delay: int) -> None:
        name = self.consumer(pick)
        had = self.pick_held(name, [chosen]) if name else []
        if not had or had[0][0].malformed:
            return
        message, entry = had[0]
        failure = '{"error":"\\udc80 boom","attempt":1}' if kind == "retried" else ""
        step = self.inbox.postpone(name, entry, delay, kind, failure, message_id(message))
        if self.refused(name, step):
            return
        held = self.still(name, message, entry)
        postponed = held and self.model.postpone(message, kind, delay < LONG_MS)
        assert (self.answer is not None) == postponed
        self.wait_past(1)

    @rule(pick=st.integers(0, 5), chosen=st.integers(0, 9))
    def bury(self, pick: int, chosen: int) -> None:
        name = self.consumer(pick)
        had = self.pick_held(name, [chosen]) if name else []
        if not had:
            return
        message, entry = had[0]
        step = self.inbox.bury(name, entry, "rejected", "no", '{"error":"x"}', 3)
        if self.refused(name, step):
            return
        buried = self.still(name, message, entry) and self.model.bury(message)
        assert (self.answer is not None) == buried

    @rule(pick=st.integers(0, 5), chosen=st.integers(0, 9))
    def mark(self, pick: int, chosen: int) -> None:
        name = self.consumer(pick)
        had = self.pick_held(name, [chosen]) if name else []
        if not had:
            return
        message, entry = had[0]
        if self.refused(name, self.inbox.mark_started(name, entry)):
            return
        self.model.started.pop(name, None)
        if self.still(name, message, entry):
            self.model.started[name] = message

    # --- time, death and outsiders ---

    @rule(pick=st.integers(0, 5), steps=st.integers(1, 4))
    def reclaim(self, pick: int, steps: int) -> None:
        """The owner crashed. After a few steps the reclaimer may crash as well: others go on as strangers."""
        name = self.consumer(pick)
        if name not in self.model.alive:
            return
        beat = self.model.alive.pop(name)
        charge = "draining" not in beat
        if charge:
            self.model.charging.add(name)
        reclaimed = self.run(self.inbox.reclaim(name, beat))
        for number in range(steps):
            assert reclaimed is not None
            left = self.model.reclaim(name, STEP, charge)
            assert reclaimed.more or not left
            if not reclaimed.more:
                self.model.taken_over(name)
                return
            self.look_and_compare()
            if number < steps - 1:
                reclaimed = self.run(self.inbox.reclaim(name, ""))

    @rule(pick=st.integers(0, 5), beat=st.sampled_from(("0 0 serving", "", "99 3 serving")))
    def reclaim_the_living(self, pick: int, beat: str) -> None:
        name = self.consumer(pick)
        if name in self.model.alive and beat != self.model.alive[name]:
            assert self.run(self.inbox.reclaim(name, beat)) is None

    @rule(pick=st.integers(0, 5))
    def reclaim_strangers(self, pick: int) -> None:
        name = self.consumer(pick)
        if name is None or name in self.model.alive:
            return
        reclaimed = self.run(self.inbox.reclaim(name, ""))
        assert reclaimed is not None
        left = self.model.reclaim(name, STEP, name in self.model.charging)
        assert reclaimed.more or not left
        if not reclaimed.more:
            self.model.taken_over(name)

    @rule(most=st.integers(1, 4))
    def promote(self, most: int) -> None:
        ready = [self.model.messages[tag] for tag in self.server.due_tags]
        ready = [message for message in ready if message.due_ready][:most]
        promoted = self.run(self.inbox.promote(WINDOW_MS, most))
        assert promoted.moved == self.model.promote(ready)

    @rule()
    def sweep(self) -> None:
        waits = self.run(self.inbox.sweep())
        assert waits == bool(self.model.at("waiting"))
        self.model.handmade_counted = self.server_handmade()
        lanes = {SOURCES[one.source] for one in self.model.at("waiting") if one.source}
        assert lanes <= set(Snapshot.take(self.control, self.inbox.keys).listed)

    def server_handmade(self) -> int:
        return sum(one.handmade for one in self.model.messages.values())

    @rule(keep=st.sampled_from((0, 3)), age=st.sampled_from((0, LONG_MS)))
    def trim(self, keep: int, age: int) -> None:
        self.run(self.inbox.trim(keep, age, 1 << 20))

    @rule(pick=st.integers(0, 5), chosen=st.integers(0, 9))
    def delete_held_entry(self, pick: int, chosen: int) -> None:
        name = self.consumer(pick)
        had = self.pick_held(name, [chosen]) if name else []
        if had and self.still(name, *had[0]):
            self.control.xdel(self.inbox.keys.sources[had[0][1].source], had[0][1].entry_id)
            had[0][0].vanished = True

    # --- comparing ---

    @invariant()
    def look_and_compare(self) -> None:
        beats = dict(self.model.alive)
        server = self.look()
        assert {name: server.alive.get(name) for name in beats if name not in server.alive} == {}
        server.compare(self.model)


def envelope(tag: str) -> str:
    return json.dumps({"message_id": tag, "tag": tag})


def message_id(message: Message) -> str:
    """Few different ids, some the name of another's state: `delayed` must keep them apart."""
    number = int(message.tag[1:])
    return ("x", "x:state", "x:state:state", message.tag)[number % 4]


def options(tagged: list[tuple[str, Wish]]) -> str:
    given: dict[str, Any] = {}
    for index, (tag, wish) in enumerate(tagged, 1):
        option: dict[str, Any] = {"id": ("x:state", "x", tag)[int(tag[1:]) % 3]}
        for name in ("ttl", "delay"):
            if getattr(wish, name) is not None:
                option[name] = getattr(wish, name)
        if wish.key is not None:
            option["key"], option["digest"] = wish.key
        if wish.strict:
            option["strict"] = True
        if len(option) > 1:
            given[str(index)] = option
    return json.dumps(given) if given else ""


def short(result: bytes) -> str:
    text = result.decode()
    return text.split()[0] if text.startswith(("!", "due ")) else ""


def tag_of(entry: RawEntry) -> str:
    return json.loads(entry.message)["tag"] if entry.message else Snapshot.malformed_tag(entry.entry_id)


def counters(entry: RawEntry) -> tuple[int, int, int]:
    try:
        state = json.loads(entry.state or b"{}")
    except ValueError:
        return 0, 0, 0
    if not isinstance(state, dict):
        return 0, 0, 0
    values = [state.get(name, 0) for name in ("attempt", "crashes", "bounces")]
    first, second, third = (value if isinstance(value, int) and 0 <= value < 2**53 else 0 for value in values)
    return first, second, third


def by_source(had: list[tuple[Message, RawEntry]]) -> dict[int, list[bytes]]:
    chosen: dict[int, list[bytes]] = {}
    for _, entry in had:
        chosen.setdefault(entry.source, []).append(entry.entry_id)
    return chosen
