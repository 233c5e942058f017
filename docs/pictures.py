"""Make the pictures of terminal sessions in this folder from real runs: python docs/pictures.py"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).parent
#: Dark on purpose: a terminal window reads well on a light page and on a dark one.
THEME = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [(110, 118, 129), (255, 123, 114), (126, 231, 135), (242, 204, 96),
     (121, 192, 255), (210, 168, 255), (118, 227, 234), (201, 209, 217)],
)  # fmt: skip
COLOURS = (
    (r"^\s*[\d.]+ s", "bright_black"),
    (r"\bplanner\b", "cyan"),
    (r"\banna\b", "magenta"),
    (r"\bben\b", "blue"),
    (r"killed with SIGKILL.*", "red"),
    (r"whose first owner died", "yellow"),
    (r"\d+ sent, .*", "green"),
)


def run(program: Path) -> str:
    """Run a program on an embedded broker of its own and return what it prints."""
    with tempfile.TemporaryDirectory(prefix="agentbus-picture-") as home:
        environment = {**os.environ, "AGENTBUS_HOME": home, "PYTHONPATH": str(HERE.parent)}
        command = [sys.executable, str(program)]
        finished = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return finished.stdout


def draw(title: str, command: str, printed: str, target: Path) -> None:
    """Write the session as SVG."""
    text = Text(f"$ {command}\n{printed.rstrip()}")
    for pattern, style in COLOURS:
        text.highlight_regex(re.compile(pattern, re.MULTILINE), style)
    width = max(len(line) for line in text.plain.splitlines()) + 2
    console = Console(record=True, width=width, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(text)
    svg = console.export_svg(title=title, theme=THEME, unique_id="session")
    # No fonts from elsewhere: a page that shows the picture should ask nobody.
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")
    target.write_text(svg)


if __name__ == "__main__":
    printed = run(HERE.parent / "examples" / "takeover.py")
    draw("two workers, one SIGKILL", "python examples/takeover.py", printed, HERE / "takeover.svg")
