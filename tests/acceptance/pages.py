"""What the pages for users contain: code blocks, shell lines, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.programs import ROOT

DOCS = ROOT / "docs"
#: Written by `make bench` and `make chaos`; linked to, and not part of a fresh checkout's promises.
WRITTEN_BY_RUNS = frozenset({DOCS / "benchmarks.md", DOCS / "reliability.md"})

_FENCE = re.compile(r"^```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]*)"')
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_program(self) -> bool:
        """A whole file, as opposed to lines for an open bus."""
        return "asyncio.run(" in self.text or self.title.endswith(".py")


def pages() -> list[Path]:
    """Every page for users."""
    return [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - WRITTEN_BY_RUNS)]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        title = _TITLE.search(match["rest"])
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, match["language"], title[1] if title else "", match["text"]))
    return found


def shell_lines(page: Path) -> list[str]:
    """Return the commands in a page's shell blocks, without comments and joined where they go on."""
    lines = []
    for block in blocks(page):
        if block.language == "sh":
            joined = block.text.replace("\\\n", " ")
            lines += [line.split("  #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def links(page: Path) -> list[str]:
    """Return the links of a page that lead to other files or headings of the project."""
    text = _FENCE.sub("", page.read_text())
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+://", target)]


def anchors(page: Path) -> set[str]:
    """Return the names under which a page's headings can be linked."""
    text = _FENCE.sub("", page.read_text())
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in _HEADING.findall(text)
    }
