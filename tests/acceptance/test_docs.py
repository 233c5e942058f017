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
import dataclasses
import inspect
import io
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from agentbus import Agent, AgentSettings, Bus, BusSettings, Defer, Policy, Reject, Retry, errors
from agentbus.broker.key_catalogue import CATALOGUE
from agentbus.message.durations import seconds
from tests.acceptance.cli_process import CommandLine
from tests.acceptance.pages import WRITTEN_BY_RUNS, Block, anchors, blocks, links, pages, shell_lines
from tests.acceptance.programs import ROOT, Home, embedded_home
from tests.agents.waiting import eventually
from tests.service import working
from tests.unit.test_keys_catalogue import pattern_of
from workers.roles import ROLES

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
        finished = home.run_pytest(program, tmp_path, AGENTBUS_PREFIX=unique("docs"))
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
        await bus.publish("channel.design.note", 1, key="three")
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


@needs_redis_cli
async def test_the_rights_in_operations_are_all_that_a_bus_uses(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    lines = shell_lines(ROOT / "docs" / "operations.md")
    (grant,) = [line for line in lines if line.startswith("redis-cli ACL SETUSER")]
    assert await _ask(server, *shlex.split(grant)[1:]) == "OK"
    agent = Agent("reviewer", pools=["reviewers"])

    @agent.on("task")
    async def review(task: int) -> int:
        if task < 0:
            raise Defer("50ms") if task < -1 else Reject("negative")
        return task

    url = server.url.replace("unix://", "unix://agentbus:change-me@")
    async with Bus(url, agent="docs") as bus, bus.serving(agent):
        await bus.declare("agent.reviewer", Policy(limit=100))
        for task in (-1, -2):
            await bus.publish("agent.reviewer.task", task, priority="critical", key=str(task))
        assert await bus.request("agent.reviewer.task", 3, delay="50ms") == 3
        assert (await bus.collect("channel.design.objection", "tabs")).complete
        assert [part async for part in bus.stream("agent.reviewer.task", 4)] == [4]
        await _until(server, "XLEN", "agentbus:{agent.reviewer}:dead")
        async with asyncio.timeout(20):
            # The rarest duty of housekeeping: when it has run, the others have too.
            while "cmdstat_xtrim" not in await _ask(server, "INFO", "commandstats"):
                await asyncio.sleep(0.1)
    assert await _ask(server, "ACL", "LOG") == ""


@needs_redis_cli
async def test_the_rights_in_operations_are_all_that_workers_and_lookers_use(
    private_broker: Callable[..., PrivateBroker], postgres_dsn: str, tmp_path: Path
) -> None:
    server = private_broker()
    lines = shell_lines(ROOT / "docs" / "operations.md")
    (grant,) = [line for line in lines if line.startswith("redis-cli ACL SETUSER")]
    assert await _ask(server, *shlex.split(grant)[1:]) == "OK"
    url = server.url.replace("unix://", "unix://agentbus:change-me@")
    async with (
        Bus(url, agent="workers") as bus,
        working(bus, *ROLES, archive=postgres_dsn, status_interval=2.0) as roles,
    ):
        await bus.declare("agent.reviewer", Policy(dead_retries=1, dead_retry_delay="1ms"))
        await bus.schedules.add("agent.reviewer.task", -1, "interval:1")
        await bus.publish("channel.design.note", 1)
        async with bus.serving(_rejecting("reviewer")):
            await _until(server, "HEXISTS", "agentbus:{agent.reviewer}:ledger", "redriven")
            await _until(server, "EXISTS", "agentbus:{system.errors}:log")
            await _until(server, "EXISTS", "agentbus:{system.bus}:log")
            await _until(server, "EXISTS", "agentbus:{channel.design}:archived")
            await eventually(bus.dead_letters.list)
        letter, *_ = await bus.dead_letters.list()
        await bus.dead_letters.resolve(letter.id, "seen")
        await bus.history("agent.reviewer", limit=5)
        await bus.status()
        assert {role.report.last_error for role in roles.values()} == {""}
    command = CommandLine(tmp_path, AGENTBUS_URL=url)
    looks = ("status", "inbox reviewer", "dlq ls", "archive status")
    for finished in await asyncio.gather(*(asyncio.to_thread(command, *look.split()) for look in looks)):
        assert (finished.returncode, finished.stderr) == (0, ""), finished.args
    await asyncio.to_thread(command, "doctor")
    assert await _ask(server, "ACL", "LOG") == ""


def _rejecting(name: str) -> Agent:
    agent = Agent(name)

    # Not Reject: what was rejected is hopeless, and no policy retries it.
    @agent.on("task", retry=Retry(max_retries=0))
    async def review(task: int) -> None:
        raise ValueError(task)

    return agent


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_the_map_names_every_file_of_the_library_and_no_other() -> None:
    files = {
        path.name
        for kind in ("agentbus/**/*.py", "agentbus/**/*.lua", "workers/**/*.py")
        for path in ROOT.glob(kind)
        # The command has one file per noun and needs no map.
        if path.name not in ("__init__.py", "__main__.py") and path.parent.name != "cli"
    }
    on_map = blocks(ARCHITECTURE)[0].text
    assert set(re.findall(r"\b\w+\.(?:py|lua)\b", on_map)) == files


def test_the_life_of_a_message_names_functions_that_exist() -> None:
    text = ARCHITECTURE.read_text()
    story = text[text.index("## The life of a message") : text.index("## What runs in one incarnation")]
    sources = "\n".join(path.read_text() for path in (ROOT / "agentbus").rglob("*.py"))
    for owner, function in re.findall(r"`([A-Z]\w+)\.(\w+)`", story):
        (body,) = re.findall(rf"^class {owner}\b.*?(?=^\S|\Z)", sources, re.MULTILINE | re.DOTALL)
        assert re.search(rf"def {function}\(", body), f"{owner}.{function}"
    for script in re.findall(r"`(\w+\.lua)`", story):
        assert (ROOT / "agentbus" / "broker" / "lua" / script).exists()


def test_the_table_of_events_names_every_action_that_the_library_emits() -> None:
    page = (ROOT / "docs" / "guides" / "errors.md").read_text()
    table = page[page.index("| Action |") : page.index("## Dead letters")]
    folders = (ROOT / "agentbus", ROOT / "workers")
    sources = "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    emitted = set(re.findall(r"(?:emit|_announce|_told|_once)\(\s*\"(\w+)\"", sources))
    first_cells = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", first_cells)) == emitted


def test_the_table_of_errors_names_every_public_error() -> None:
    page = (ROOT / "docs" / "guides" / "errors.md").read_text()
    public = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert {name for name in public if f"`{name}`" not in page} <= {
        "BrokerError", "DeliveryError", "PublishError", "RequestError",
    }  # fmt: skip


def test_every_setting_of_an_agent_is_in_the_guide_with_its_default() -> None:
    page = (ROOT / "docs" / "guides" / "agents.md").read_text()
    rows = dict(
        re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", page[page.index("| `AgentSettings` |") :], re.MULTILINE)
    )
    rows.pop("AgentSettings", None)
    settings = {field.name: field.default for field in dataclasses.fields(AgentSettings)}
    assert set(rows) == set(settings) - {"resumable", "copies_to"}
    for name, shown in rows.items():
        default = settings[name]
        expected = (
            int(shown) if name == "prefetch" else seconds(shown.replace(" ", "").replace("min", "m"), name)
        )
        assert default == expected, name
