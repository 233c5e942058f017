from __future__ import annotations

from pathlib import Path

import pytest

from agentbus.broker.embedded.programs.append_file import cut_torn_end, whole_steps


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


#: One step each, as a server writes them; a value may look like anything.
STEPS = [
    command(b"SELECT", b"0"),
    command(b"SET", b"a", b"1\r\n*1\r\n$5\r\nMULTI\r\n"),
    command(b"MULTI") + command(b"XADD", b"s", b"1-1", b"f", b"\x00\xff") + command(b"EXEC"),
    b"#TS:1790000000\r\n",
    command(b"multi") + command(b"HINCRBY", b"l", b"n", b"1") + command(b"DEL", b"") + command(b"exec"),
    command(b"HSET", b"h", b"f", b"v" * 300),
]
TEXT = b"".join(STEPS)


def written(folder: Path, text: bytes) -> Path:
    place = folder / "appendonlydir"
    place.mkdir()
    (place / "appendonly.aof.manifest").write_text(
        "file appendonly.aof.2.base.rdb seq 2 type b\n"
        "file appendonly.aof.1.incr.aof seq 1 type h\n"
        "file appendonly.aof.2.incr.aof seq 2 type i\n"
        "file appendonly.aof.3.incr.aof seq 3 type i\n"
    )
    path = place / "appendonly.aof.3.incr.aof"
    path.write_bytes(text)
    return path


def test_a_text_that_is_cut_anywhere_is_whole_up_to_the_step_before_the_cut() -> None:
    ends = [sum(map(len, STEPS[:count])) for count in range(len(STEPS) + 1)]
    for cut in range(len(TEXT) + 1):
        assert whole_steps(TEXT[:cut]) == max(end for end in ends if end <= cut), f"cut at {cut}"


def test_a_file_with_a_torn_end_is_cut_after_its_last_whole_step(tmp_path: Path) -> None:
    whole = TEXT[: -len(STEPS[-1])]
    path = written(tmp_path, TEXT[:-1])

    told = cut_torn_end(str(tmp_path))

    assert told == f"{path} ended in the middle of a step: cut from {len(TEXT) - 1} to {len(whole)} bytes"
    assert path.read_bytes() == whole
    assert cut_torn_end(str(tmp_path)) is None


@pytest.mark.parametrize(
    "text", [b"", TEXT, TEXT[:-7] + b"?" + TEXT, b"REDIS0011" + TEXT, TEXT + b"x" * 500, b"*1\r\n$-3\r\n"]
)
def test_a_file_that_is_whole_or_damaged_elsewhere_stays_as_it_is(tmp_path: Path, text: bytes) -> None:
    path = written(tmp_path, text)

    assert cut_torn_end(str(tmp_path)) is None
    assert path.read_bytes() == text


def test_without_a_file_there_is_nothing_to_cut(tmp_path: Path) -> None:
    assert cut_torn_end(str(tmp_path)) is None
    written(tmp_path, TEXT).unlink()
    assert cut_torn_end(str(tmp_path)) is None
