"""Role ``dead``: announces dead letters, warns before there are too many, retries what a policy says."""

from __future__ import annotations

from agentbus.broker.dead_letters import RawLetter, server_ms
from agentbus.broker.notices import CHANNEL, LetterLook, NoticeBoard
from agentbus.dead_letters.letter import DeadLetter, dead_letter, read_state
from agentbus.message.topics import is_inbox
from agentbus.send.envelope import PublishOptions, Sender, compose
from workers.role import Ground, Role
from workers.walk import my_addresses

TOPIC = f"{CHANNEL}.dlq"
#: Seconds between passes over the addresses.
_INTERVAL = 1.0
#: Letters that one address has announced or retried in one pass, so that a flood of one does not hold up all.
_BATCHES = 20
#: An alarm at this share of the cap; it is given again only after the number has fallen below the second.
_ALARM, _ALL_CLEAR = 0.9, 0.8
#: A letter that a policy retries waits at least this long, in ms, where the policy does not say.
_RETRY_AFTER_MS = 3_600_000
#: Reasons that another attempt cannot change.
_HOPELESS = (b"malformed", b"invalid", b"rejected", b"loop")
_LONGEST_DETAIL = 500


class Dead(Role):
    """Looks at the dead letters of its share of inboxes.

    A letter is announced from a cursor over ``dead``, not by whoever buried it: a process that dies in
    between would leave it unannounced. Its lag is the age of the oldest letter that was not announced yet.
    """

    name = "dead"
    summary = f"announces dead letters on {TOPIC}, and retries those that a policy says"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._board = NoticeBoard(ground.bus.rooms.broker, ground.bus.settings.prefix)
        self._alarmed: set[str] = set()
        #: Address and policy to the last letter that was decided by it: another policy decides anew.
        self._decided: dict[tuple[str, int, int], str] = {}

    async def run(self) -> None:
        """Pass after pass over the inboxes that are this process's share."""
        await self.every(_INTERVAL, self.look_around)

    async def look_around(self) -> None:
        """One pass."""
        oldest: int | None = None
        async for names in my_addresses(self.ground, self.name):
            inboxes = [name for name in names if is_inbox(name)]
            looks = await self._board.look(inboxes)
            for address, error in looks.refusals.items():
                self.refused(address, error)
            for look in looks.letters:
                if look.oldest_ms is not None:
                    oldest = look.oldest_ms if oldest is None else min(oldest, look.oldest_ms)
                with self.apart(look.address):
                    await self._tend(look)
        now = await server_ms(self.ground.bus.rooms.broker)
        self.report.lag_ms = 0 if oldest is None else max(0, now - oldest)

    async def _tend(self, look: LetterLook) -> None:
        self._warn(look)
        if look.oldest_ms is not None:
            await self._announce(look)
        if look.dead_retries:
            await self._retry(look)

    # --- notices ---

    async def _announce(self, look: LetterLook) -> None:
        cursor = look.cursor
        for _ in range(_BATCHES):
            news = await self._board.news(look.address, cursor)
            if news.cursor == cursor:
                if news.kept:  # whoever announced them died before he could say so
                    await self._board.tidy(look.address, news)
                return
            texts = [self._notice(letter) for letter in map(dead_letter, news.letters) if _is_news(letter)]
            if not await self._board.announce(look.address, cursor, news, texts):
                return  # another worker was first; the next pass reads its cursor
            cursor = news.cursor
            if not news.more:
                return

    def _notice(self, letter: DeadLetter) -> bytes:
        options: PublishOptions = {}
        if letter.message_id is not None:
            options["causation_id"] = letter.message_id
        correlation = letter.message.correlation_id if letter.message is not None else None
        if correlation is not None:
            options["correlation_id"] = correlation
        bus = self.ground.bus
        sender = Sender("workers", "service")
        limit = bus.settings.publisher.message_bytes
        return compose(sender, TOPIC, _body(letter, correlation), options, limit).text

    # --- too many ---

    def _warn(self, look: LetterLook) -> None:
        share = look.dead / look.dead_limit
        if share >= _ALARM and look.address not in self._alarmed:
            self._alarmed.add(look.address)
            self.ground.bus.events.emit(
                "dead_letters_filling",
                look.address,
                f"{look.dead:,} of {look.dead_limit:,} dead letters; beyond that, what dies is parked. "
                "Retry, resolve or drop some",
                dead=look.dead,
                limit=look.dead_limit,
            )
        elif share < _ALL_CLEAR:
            self._alarmed.discard(look.address)

    # --- a policy that retries ---

    async def _retry(self, look: LetterLook) -> None:
        """Hand out again what the policy says; each letter is decided once, when its time has come."""
        delay_ms = _RETRY_AFTER_MS if look.dead_retry_delay_ms is None else look.dead_retry_delay_ms
        until = str(await server_ms(self.ground.bus.rooms.broker) - delay_ms)
        box, decided = self._board.box(look.address), (look.address, look.dead_retries, delay_ms)
        for _ in range(_BATCHES):
            batch: list[RawLetter] = []
            async for raw in box.walk("dead", self._decided.get(decided), newest_first=False, until=until):
                batch.append(raw)
                if len(batch) == 100:
                    break
            if not batch:
                return
            chosen = [raw.entry_id for raw in batch if _may_be_retried(raw, look.dead_retries)]
            if chosen:
                await box.retry(chosen, "policy", automatic=True)
            self._decided[decided] = batch[-1].entry_id


def _is_news(letter: DeadLetter) -> bool:
    """What readers of notices failed at is not announced: they would fail at that too, and so on."""
    channel = letter.message.channel if letter.message is not None else None
    return channel is None or not (channel == CHANNEL or channel.startswith(f"{CHANNEL}."))


def _may_be_retried(raw: RawLetter, most: int) -> bool:
    done = read_state(raw).get("automatic_retries", 0)
    hopeless = "message" not in raw.fields or raw.fields.get("reason") in _HOPELESS
    return not hopeless and isinstance(done, int) and done < most


def _body(letter: DeadLetter, correlation: str | None) -> dict[str, object]:
    return {
        "dlq_id": letter.id,
        "message_id": letter.message_id,
        "address": letter.address,
        "type": letter.type,
        "reason": letter.reason,
        "detail": letter.detail[:_LONGEST_DETAIL],
        "retry_count": letter.retry_count,
        "max_retries": letter.max_retries,
        "from_agent": letter.sender,
        "session_id": letter.session_id,
        "correlation_id": correlation,
        "owner": letter.owner,
        "died_at": letter.died_at,
    }
