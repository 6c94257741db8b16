"""Every wrong place for a store: one clear line, the right exit code, and nothing written."""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlsysopt.core.errors import MissingExtra, MlsysoptError, StoreError, StoreUnavailable
from mlsysopt.core.store import Store, schema
from mlsysopt.core.store.address import Address, hidden
from mlsysopt.core.store.sqlite_file import file_system
from tests.core.store.actors import IDENTITY, one_trial, row, study_of


def _text(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("not a database, " * 100)
    return path


def _short_text(folder: Path) -> Path:
    path = folder / "short.db"
    path.write_text("hello")
    return path


def _foreign(folder: Path) -> Path:
    path = folder / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE orders (id)")
        connection.commit()
    return path


def _half_foreign(folder: Path) -> Path:
    path = folder / "trials.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE trials (patient)")
        connection.commit()
    return path


def _newer(folder: Path) -> Path:
    path = folder / "tune.db"
    with Store.open(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE mlsysopt_schema SET version = 99")
        connection.commit()
    return path


def _folder(folder: Path) -> Path:
    (folder / "here").mkdir()
    return folder / "here"


CASES: list[tuple[Callable[[Path], Path], type[MlsysoptError], str]] = [
    (_text, StoreError, "is not a SQLite database"),
    (_short_text, StoreError, "is not a SQLite database"),
    (_foreign, StoreError, "another program's database (tables orders)"),
    (_half_foreign, StoreError, "another program's database (tables trials)"),
    (_newer, StoreError, "has schema 99; this version of mlsysopt reads up to 1"),
    (_folder, StoreError, "is a directory"),
    (lambda folder: folder / "no" / "tune.db", StoreError, "there is no directory"),
]


@pytest.mark.parametrize(("make", "kind", "said"), CASES)
def test_a_wrong_file_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], Path], kind: type[MlsysoptError], said: str
) -> None:
    path = make(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    for read_only in (False, True):
        with pytest.raises(kind) as error:
            Store.open(path, read_only=read_only)
        if not (read_only and "no directory" in said):
            assert said in str(error.value)
        assert str(error.value).count("\n") == 0 and error.value.exit_code == 2
        assert error.value.__suppress_context__ or error.value.__context__ is None
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsysopt.core.store.sqlite_file.OPEN_S", 0.05)
    path = tmp_path / "tune.db"
    with Store.open(path):
        pass
    with closing(sqlite3.connect(path)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="is locked by another program") as error:
            Store.open(path)
        assert error.value.exit_code == 1
        holder.rollback()


def test_missing_is_created_only_when_asked(tmp_path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(StoreError, match="does not exist"):
            Store.open(tmp_path / "tune.db", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("odd", ["with space.db", "per%cent.db", "what?.db", "{brace}.db", "a#b.db", "ünï.db"])
def test_odd_file_names(tmp_path: Path, odd: str) -> None:
    with Store.open(tmp_path / odd) as store:
        study_of(store)
    with Store.open(f"sqlite:///{tmp_path / odd}", read_only=True) as store:
        assert store.find().name == "s"
    assert [file.name for file in tmp_path.iterdir()] == [odd]


def test_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    with Store.open(path) as store:
        one_trial(store, study_of(store))
    before = path.read_bytes()
    with Store.open(path, read_only=True) as store:
        assert store.find().trials == 1 and len(store.measurements("s")) == 1 and store.machine_key
        for write in (lambda: store.record(row()), lambda: store.register_worker("s"), lambda: study_of(store).ask()):
            with pytest.raises(StoreError, match="reading only"):
                write()
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["tune.db"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the superuser's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_directory() -> None:
    # Not below pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="mlsysopt-ro-"))
    try:
        path = folder / "tune.db"
        with Store.open(path) as store:
            study_of(store)
        path.chmod(0o444)
        folder.chmod(0o555)
        with as_nobody():
            for file, said in (
                (folder / "new.db", f"directory {folder} is read-only"),
                (path, "the file is read-only"),
            ):
                with pytest.raises(StoreUnavailable) as error:
                    Store.open(file)
                assert str(error.value).endswith(said) and error.value.exit_code == 1
            with Store.open(path, read_only=True) as store:
                assert store.find().name == "s"
        assert [file.name for file in folder.iterdir()] == ["tune.db"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_an_older_schema_moves_forward_after_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tune.db"
    with Store.open(path) as store:
        one_trial(store, study_of(store))

    def add_column(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE mlsysopt_worker ADD COLUMN note TEXT")

    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setitem(schema.MIGRATIONS, 1, add_column)
    with Store.open(path) as store:
        assert store.find().trials == 1
    with Store.open(path):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tune.db", "tune.db.bak-v1"]
    monkeypatch.setattr(schema, "VERSION", 1)
    with Store.open(tmp_path / "tune.db.bak-v1", read_only=True) as store:
        assert store.find().trials == 1 and len(store.measurements("s")) == 1
    with pytest.raises(StoreError, match="has schema 2"):
        Store.open(path)


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tune.db"
    with Store.open(path) as store:
        study_of(store)

    def breaks(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE mlsysopt_worker ADD COLUMN note TEXT")
        connection.exec_driver_sql("ALTER TABLE mlsysopt_absent ADD COLUMN note TEXT")

    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setitem(schema.MIGRATIONS, 1, breaks)
    with pytest.raises(StoreError, match="no such table"):
        Store.open(path)
    monkeypatch.setattr(schema, "VERSION", 1)
    with Store.open(path) as store, store._database.read() as connection:
        assert "note" not in [column["name"] for column in sa.inspect(connection).get_columns("mlsysopt_worker")]


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "tune.db"
    with Store.open(path) as store:
        for _ in range(20):
            one_trial(store, study_of(store))
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged|not a SQLite database"):
        Store.open(path)


def test_a_full_disk_keeps_what_is_pending(tmp_path: Path) -> None:
    with Store.open(tmp_path / "tune.db") as store:
        study = study_of(store)
        trial = study.ask()
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(StoreUnavailable, match="disk is full"):
            store.annotate(trial, {"config": "x" * 200_000})
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        study.tell(trial, 1.0)
        assert len(study.trials[0].user_attrs["config"]) == 200_000
    with Store.open(tmp_path / "tune.db") as store:
        assert len(study_of(store).trials[0].user_attrs["config"]) == 200_000


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:secret@host/db", "no database is called 'mysql'"),
        ("postgressql://me:secret@host/db", "did you mean postgresql"),
        ("postgresql://me:sec/ret@host:x/db", "not a URL"),
        ("postgresql://me:secret@host:12ab/db", "not a URL"),
        ("postgresql://me:secret@host", "names no database"),
        ("", "a path is needed"),
    ],
)
def test_urls_that_cannot_be_meant(url: str, said: str) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(url)
    assert said in str(error.value)
    assert "sec" not in str(error.value) and str(error.value).count("\n") <= 1


def test_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mlsysopt\[tune\]'"):
        Store.open("postgresql://me:secret@host/db")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:top@sec:ret/x@host/db",
        "postgresql://me:top?secret@host/db",
        "postgresql://:topsecret@host/db",
        "postgresql://host/db?user=me&password=topsecret",
    ],
)
def test_passwords_are_hidden(url: str) -> None:
    assert "secret" not in hidden(url) and "sec:ret" not in hidden(url) and "host" in hidden(url)


def test_an_address_does_not_show_its_password() -> None:
    address = Address.parse("postgresql://me:topsecret@host/db")
    assert "topsecret" not in repr(address) and "topsecret" not in str(address)


def test_file_system_is_known(tmp_path: Path) -> None:
    assert file_system(tmp_path / "x.db") and file_system(Path("/proc/x")) == "proc"


def test_identity_is_the_stored_one(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db") as store:
        study_of(store)
        assert store.find().identity == IDENTITY
