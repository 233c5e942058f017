"""The documentation is true: its examples run, its commands exist, its links lead somewhere.

Python blocks of a page run one after the other in one namespace, in which ``bus`` is an open `Bus`. A block
with ``asyncio.run`` or a file name as title is a program and runs by itself, on the embedded broker. A block
with the title "fragment" is only compiled. A text block with the title "output" shows what the block
before it prints.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from agentbus import Agent, Bus, BusSettings, Defer, Policy, Reject, Retry
from agentbus.broker.keys import CATALOGUE
from tests.acceptance.pages import WRITTEN_BY_RUNS, Block, anchors, blocks, links, pages, shell_lines
from tests.acceptance.programs import ROOT, Home, embedded_home
from tests.unit.test_keys_catalogue import pattern_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentbus.broker.embedded import PrivateBroker, ServerBinary
    from agentbus.testing import BrokerForTests

_PAGE_SECONDS = 40.0
_TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _python(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def _lines_for_a_bus(page: Path) -> list[Block]:
    return [block for block in _python(page) if block.title != "fragment" and not block.is_program]


PAGES = pages()
WITH_LINES = [page for page in PAGES if _lines_for_a_bus(page)]
PROGRAMS = [block for page in PAGES for block in _python(page) if block.is_program]
needs_redis_cli = pytest.mark.skipif(
    shutil.which("redis-cli") is None, reason="NOT TESTED: redis-cli is not on PATH"
)
FRAGMENTS = [block for page in PAGES for block in _python(page) if block.title == "fragment"]


@pytest.fixture(scope="module")
def home(default_server: ServerBinary) -> Iterator[Home]:
    with embedded_home(default_server.path) as opened:
        yield opened


def _output_after(block: Block) -> str | None:
    """What the page says that a block prints, if it does."""
    on_page = blocks(block.page)
    position = on_page.index(block) + 1
    if position < len(on_page) and on_page[position].title == "output":
        return on_page[position].text
    return None


async def _run_lines(block: Block, names: dict[str, Any]) -> str:
    # Padded, so that an error points at the line of the page.
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, str(block.page), "exec", flags=_TOP_LEVEL_AWAIT, dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = eval(code, names)
        if inspect.iscoroutine(result):
            await result
    return printed.getvalue()


@pytest.mark.parametrize("page", WITH_LINES, ids=_name)
async def test_the_examples_of_a_page_run_in_their_order_and_print_what_it_says(
    page: Path, broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    settings = BusSettings(prefix=unique("docs"))
    async with asyncio.timeout(_PAGE_SECONDS), Bus(broker.url, agent="docs", settings=settings) as bus:
        names: dict[str, Any] = {"__name__": "page", "bus": bus}
        for block in _lines_for_a_bus(page):
            printed = await _run_lines(block, names)
            expected = _output_after(block)
            if expected is not None:
                assert printed == expected, block.place


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.place)
def test_a_program_on_a_page_runs_as_it_stands_there(
    block: Block, home: Home, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    program = tmp_path / (block.title or "program.py")
    program.write_text(block.text)
    if program.name.startswith("test_"):
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", program]
        finished = home.run_module(command, tmp_path, AGENTBUS_PREFIX=unique("docs"))
    else:
        finished = home.run_python(program, tmp_path, AGENTBUS_PREFIX=unique("docs"))
    assert (finished.returncode, finished.stderr) == (0, ""), f"{block.place}\n{finished.stdout}"
    expected = _output_after(block)
    if expected is not None:
        assert finished.stdout == expected, block.place


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.place)
def test_a_fragment_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec", flags=_TOP_LEVEL_AWAIT, dont_inherit=True)


def test_fragments_are_few() -> None:
    assert len(FRAGMENTS) <= 6, [block.place for block in FRAGMENTS]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target in WRITTEN_BY_RUNS:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached, ahead = {index}, [index]
    while ahead:
        page = ahead.pop()
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        for target in targets & set(PAGES) - reached:
            reached.add(target)
            ahead.append(target)
    assert set(PAGES) - reached <= {ROOT / "README.md"}


@needs_redis_cli
async def test_every_redis_cli_line_of_the_docs_is_answered_without_an_error(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="docs") as bus:
        await bus.publish("agent.reviewer.task", {"pr": 7})
        await bus.publish("agent.reviewer.task", {"pr": 8}, delay="1h")
        delivery = await bus.next("reviewer", timeout="10s")
        assert delivery is not None
        lines = [line for page in PAGES for line in shell_lines(page) if line.startswith("redis-cli ")]
        assert lines
        for line in lines:
            command = ["redis-cli", "-e", "-s", str(server.socket), *shlex.split(line)[1:]]
            finished = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=20, check=False
            )
            assert (finished.returncode, finished.stderr) == (0, ""), f"{line}\n{finished.stdout}"
        await delivery.ack()


@needs_redis_cli
async def test_every_key_on_the_server_of_a_busy_bus_is_in_the_catalogue_with_its_type(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker(appendfsync="always")
    agent = Agent("reviewer", pools=["reviewers"], retry=Retry(max_retries=0))

    @agent.on("task")
    async def review(task: int) -> int:
        if task < 0:
            raise Defer("1h") if task < -1 else Reject("negative")
        return task

    async with Bus(server.url, agent="docs") as bus, bus.serving(agent):
        await bus.declare("agent.reviewer", Policy(limit=100))
        for task in (-1, -2):
            await bus.publish("agent.reviewers.task", task, priority="critical")
        await bus.publish("agent.reviewer.task", 1, key="one", durability="disk")
        await bus.publish("agent.reviewer.task", 1, key="two", delay="1h")
        assert await bus.request("agent.reviewer.task", 3) == 3
        await _until(server, "EXISTS", "agentbus:{agent.reviewers}:dead")
        keys = (await _ask(server, "--scan")).split()
        assert len(keys) > 20
        for key in keys:
            rows = [info for info in CATALOGUE if pattern_of(info.pattern).fullmatch(key)]
            assert [info.type for info in rows] == [await _ask(server, "TYPE", key)], key


async def _until(server: PrivateBroker, *command: str) -> None:
    async with asyncio.timeout(10):
        while await _ask(server, *command) != "1":
            await asyncio.sleep(0.02)


async def _ask(server: PrivateBroker, *command: str) -> str:
    arguments = ["redis-cli", "-e", "-s", str(server.socket), *command]
    finished = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=True)
    return finished.stdout.strip()
