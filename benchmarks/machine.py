"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.0f} GiB"


def commit(root: Path) -> str:
    """The commit that was measured, marked when files had been changed; `unknown` outside a checkout."""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def describe() -> dict[str, str]:
    """Name and value of what does not change while a run lasts."""
    return {
        "processor": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def load() -> str:
    """How busy the machine was during the last minute; a run by itself keeps it between one and three."""
    return f"{os.getloadavg()[0]:.1f}"
