"""`python -m benchmarks`: measure, print the goals, write the report."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from . import report
from .catalogue import CATALOGUE
from .goals import judge
from .results import Results
from .runner import Plan, Runner
from .servers import ServerMissing

ROOT = Path(__file__).resolve().parent.parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=sorted(CATALOGUE), help="measure this candidate; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="small numbers: a look, not a result")
    parser.add_argument("--rounds", type=int, help="rounds that count (6; quick: 2)")
    parser.add_argument("--skip-scenarios", action="store_true", help="no backlog, no crowd, no dead letters")
    parser.add_argument("--output", type=Path, help="write the report here, and its chart beside it")
    parser.add_argument("--json", type=Path, help="write all figures here, for machines")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    quick, scenarios = arguments.quick, not arguments.skip_scenarios
    rounds = arguments.rounds or (2 if quick else 6)
    return Plan(
        candidates=tuple(name for name in CATALOGUE if not arguments.only or name in arguments.only),
        rounds=rounds,
        both_rounds=min(rounds, 1 if quick else 3),
        latency_rounds=min(rounds, 1 if quick else 3),
        seconds=0.3 if quick else 0.8,
        latency_samples=60 if quick else 150,
        backlog=(50_000 if quick else 1_000_000) if scenarios else 0,
        crowd_agents=(100 if quick else 1000) if scenarios else 0,
        crowd_messages=10 if quick else 30,
        letters=(10_000 if quick else 100_000) if scenarios else 0,
        fan_out_rounds=min(rounds, 1 if quick else 2),
        most_subscribers=100 if quick else 1000,
        idle_seconds=2.0 if quick else 4.0,
    )


async def _run(plan: Plan) -> Results:
    """Measure; SIGTERM ends it as Ctrl-C does, with every server and process ended."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="agentbus-bench-") as folder:
        async with AsyncExitStack() as stack:
            runner = Runner(ROOT, Path(folder), plan)
            await runner.start_servers(stack)
            return await runner.run()


def main() -> int:
    arguments = _arguments()
    plan = _plan(arguments)
    try:
        results = asyncio.run(_run(plan))
    except ServerMissing as missing:
        print(f"benchmarks: {missing}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("benchmarks: stopped; nothing was written", file=sys.stderr)
        return 130
    goals = judge(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    if arguments.output:
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        report.write(arguments.output, ROOT, command, plan, results, goals)
    print(report.summary(results, goals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
