"""docs/guards.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_guard_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+)` \|", (ROOT / "docs" / "guards.md").read_text())
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(named) >= 25
    assert sorted(set(named) - written) == []
