"""docs/keys.md says what the catalogue says. To write it anew: python tests/unit/test_keys_catalogue.py"""

from __future__ import annotations

import re
from pathlib import Path

from agentbus.broker import keys
from agentbus.broker.key_catalogue import CATALOGUE
from agentbus.broker.keys import GROUP, SOURCES, addresses, channel_keys, inbox_keys, reply_log
from agentbus.message.topics import CHANNEL_KINDS, INBOX_KINDS

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"
WRITE = "python tests/unit/test_keys_catalogue.py"

_HEAD = f"""# Keys in Redis

<!-- Written from agentbus/broker/key_catalogue.py by: {WRITE} -->

Every name begins with the prefix, `agentbus` unless `BusSettings.prefix` or `AGENTBUS_PREFIX` says otherwise,
and a colon. Everything of one address shares the hash tag `{{<address>}}`, so that each script touches one
slot: the critical lane of the reviewer's inbox is `agentbus:{{agent.reviewer}}:lane:critical`.

| Key | Type | Content | Written by | Lifetime |
|---|---|---|---|---|
"""
_ORDER = ", ".join(f"{index} `{name}`" for index, name in enumerate(SOURCES))
_TAIL = f"""
Scripts number the streams of an inbox in this order: {_ORDER}.
The consumer group is `{GROUP}`.

## Looking with redis-cli

```sh
redis-cli SMEMBERS agentbus:addresses
redis-cli XINFO GROUPS 'agentbus:{{agent.reviewer}}:lane:normal'
redis-cli XRANGE 'agentbus:{{agent.reviewer}}:lane:normal' - + COUNT 5
redis-cli XPENDING 'agentbus:{{agent.reviewer}}:lane:normal' {GROUP}
redis-cli ZRANGE 'agentbus:{{agent.reviewer}}:due' 0 -1 WITHSCORES
redis-cli HGETALL 'agentbus:{{agent.reviewer}}:alive'
redis-cli HGETALL 'agentbus:{{agent.reviewer}}:ledger'
redis-cli XREVRANGE 'agentbus:{{agent.reviewer}}:outcomes' + - COUNT 5
redis-cli XRANGE 'agentbus:{{agent.reviewer}}:dead' - + COUNT 5
```

Looking harms nothing. Adding is possible too: an entry made with
`XADD 'agentbus:{{agent.reviewer}}:lane:normal' '*' message '<envelope as JSON>'` is delivered like any other
(at the latest a second later where the reader is busy) and, if it is no envelope, becomes a dead letter with
its raw fields kept. Never delete entries, trim streams or delete consumers by hand: what somebody holds is
then counted as `vanished`; what was waiting is gone, and a worker finds out that the ledger does not close.
"""


def render() -> str:
    """Return the page."""
    rows = []
    for info in CATALOGUE:
        cells = (f"`{info.pattern}`", info.type, info.content, info.writer, info.lifetime)
        rows.append("".join(f"| {cell.replace('|', chr(92) + '|')} " for cell in cells) + "|\n")
    return _HEAD + "".join(rows) + _TAIL


def test_the_page_for_users_says_what_the_catalogue_says() -> None:
    assert PAGE.read_text() == render(), f"docs/keys.md is out of date; run: {WRITE}"


def test_no_name_is_in_the_catalogue_twice() -> None:
    patterns = [info.pattern for info in CATALOGUE]
    assert len(patterns) == len(set(patterns))


def test_every_name_that_the_library_makes_is_in_the_catalogue() -> None:
    inbox = inbox_keys("agentbus", "agent.reviewer")
    names = [inbox.lanes, inbox.due, inbox.delayed, inbox.dead, inbox.alive, inbox.started, inbox.keys_even]
    names += [inbox.keys_odd, inbox.keys_due, inbox.outcomes, inbox.ledger, inbox.policy, inbox.nudge]
    names += [inbox.resolved, inbox.ended, inbox.schedules, inbox.ticks, inbox.archived]
    names += [channel_keys("agentbus", "system.bus").log, channel_keys("agentbus", "system.errors").cursors]
    names += [name("agentbus") for name in (keys.wake, keys.ticking, keys.workers)]
    names += [keys.agents("agentbus"), keys.agent("agentbus", "reviewer")]
    names += [keys.conversations("agentbus", "ann"), keys.read_up_to("agentbus", "dm:ann:bob")]
    names += [keys.receipts("agentbus", "0190-ab")]
    names += [keys.archive("agentbus"), inbox.producer + "0a1b"]
    names += [*inbox.sources, reply_log("agentbus", "0a1b"), addresses("agentbus")]
    patterns = [pattern_of(info.pattern) for info in CATALOGUE]
    assert [name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)] == []


def pattern_of(row: str) -> re.Pattern[str]:
    """Return what the names of one row look like, with the default prefix."""
    # `reply.<process>` is no address, though it looks like one.
    address = rf"(?:(?:{'|'.join((*INBOX_KINDS, *CHANNEL_KINDS))})\.[a-z0-9_-]+|dm:[a-z0-9_-]+:[a-z0-9_-]+)"
    parts = {"<address>": address}
    pieces = [
        parts.get(piece, "[a-z0-9._-]+") if piece.startswith("<") else re.escape(piece)
        for piece in re.split(r"(<\w+>)", row)
    ]
    return re.compile("agentbus:" + "".join(pieces))


if __name__ == "__main__":
    PAGE.write_text(render())
