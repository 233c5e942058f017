"""A run that fails leaves what it had in files, where somebody asked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentbus.broker.embedded import ServerBinary
from tests.chaos.stage import RunFailed, Stage


def fail_on(stage: Stage) -> None:
    stage.start("agent", name="left", manner="work")
    with stage.client() as client:
        client.set("seen", "by the server")
    raise RunFailed("on purpose")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_run_that_fails_keeps_the_servers_file_its_log_and_the_histories(
    default_server: ServerBinary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_memory: bool,
) -> None:
    monkeypatch.setattr(Stage, "keep", tmp_path / "kept")
    with (
        pytest.raises(RunFailed, match="on purpose"),
        Stage(default_server, in_memory=in_memory) as stage,
    ):
        fail_on(stage)

    (place,) = (tmp_path / "kept").iterdir()
    assert f"kept in {place}: RunFailed: on purpose" in capsys.readouterr().out
    (file,) = place.rglob("*.incr.aof")
    assert b"by the server" in file.read_bytes()
    assert (place / "broker" / "broker.log").stat().st_size > 0
    assert list((place / "stage").glob("run-*.history"))
    assert "appendfsync everysec" in (place / "reason.txt").read_text()
    assert not stage.folder.exists()


def test_a_run_that_fails_keeps_nothing_when_nobody_asked(
    default_server: ServerBinary, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunFailed, match="on purpose"), Stage(default_server) as stage:
        fail_on(stage)

    assert "kept" not in capsys.readouterr().out
    assert not stage.folder.exists()
