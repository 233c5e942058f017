"""A person process: looks at dead letters and does something about them, as long as it lives.

Each wish is written down before it is uttered, with the answer after it; whoever is killed in between has
nobody to tell.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

from agentbus import Bus, DeadLetter, DeadLetterFilter, DeadLetterResolved, DeadLetters, NoSuchDeadLetter
from agentbus.errors import BrokerError
from tests.chaos.history import History
from tests.chaos.opening import opened

#: What is done about a letter, and how often. One that is left alone is looked at again later.
_WISHES = {"retry": 8, "edit": 5, "resolve": 2, "drop": 2, "leave": 3}
_ANSWERS = {"retry": "retried", "edit": "retried", "resolve": "resolved", "drop": "dropped"}


async def run(*, url: str, folder: str, name: str, addresses: list[str], seed: str) -> None:
    """Work on the dead letters of some addresses until SIGTERM; ``name`` is the person's."""
    history = History(Path(folder), f"person-{name}")
    dice = random.Random(f"{seed} {name} {os.getpid()}")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with opened(Bus(url, agent=name)) as bus:
        person = _Person(bus.dead_letters, history, dice)
        while not stopping.is_set():
            try:
                await person.work(dice.choice(addresses))
            except BrokerError:
                # The broker is away, or was cut off in the middle of something: look again.
                await asyncio.sleep(0.1)
            await asyncio.sleep(dice.uniform(0.0, 0.2))


class _Person:
    """Somebody with opinions about letters."""

    def __init__(self, letters: DeadLetters, history: History, dice: random.Random) -> None:
        self._letters = letters
        self._history = history
        self._dice = dice

    async def work(self, address: str) -> None:
        """Do something about each of the letters on one page, sometimes about all at once."""
        if self._dice.random() < 0.1:
            await self._retry_all(address)
            return
        for letter in await self._letters.list(address, limit=20):
            wish = self._dice.choices(list(_WISHES), list(_WISHES.values()))[0]
            if wish != "leave":
                await self._carry_out(wish, letter)

    async def _retry_all(self, address: str) -> None:
        """Retry what is dead by now; which of them were handed out again nobody is told."""
        reason = self._dice.choice(("rejected", "exhausted"))
        page = await self._letters.list(address, limit=1_000, reason=reason)
        if not page.letters:
            return
        for letter in page:
            self._write("asked", letter, "retry")
        # Whatever dies from now on was not written down.
        newest = max(letter.died_at for letter in page if letter.died_at is not None)
        try:
            await self._letters.retry_all(DeadLetterFilter(address, reason=reason, until=newest))
        except NoSuchDeadLetter:
            return

    async def _carry_out(self, wish: str, letter: DeadLetter) -> None:
        self._write("asked", letter, wish)
        try:
            await self._do(wish, letter)
        except DeadLetterResolved as error:
            self._write("told", letter, f"gone {error.outcome}")
        except NoSuchDeadLetter:
            # Retention has taken the record of what became of it.
            self._write("told", letter, "gone")
        else:
            self._write("told", letter, _ANSWERS[wish])

    async def _do(self, wish: str, letter: DeadLetter) -> None:
        if wish == "retry":
            await self._letters.retry(letter.id)
        elif wish == "edit":
            assert letter.message is not None
            await self._letters.edit(letter.id, {**letter.message.content, "mended": True})
        elif wish == "resolve":
            await self._letters.resolve(letter.id, "done by hand")
        else:
            await self._letters.drop(letter.id)

    def _write(self, event: str, letter: DeadLetter, note: str) -> None:
        key = "" if letter.message is None else letter.message.content["key"]
        self._history.write(event, key=key, message_id=letter.message_id or "", letter=letter.id, note=note)
