"""The SQLite file of a study: opened only if it is one, and its errors as sentences."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import optuna
from sqlalchemy.exc import SQLAlchemyError

from lit_cifar.data.files import RUNS_FLAG
from lit_cifar.errors import UsageError, UserError, reason

SECONDS_TO_WAIT = 60.0  # for other processes that write to the study


def refuse_foreign(path: Path) -> None:
    """Raises UserError for a file that is damaged or of another program, to which Optuna would add its tables."""
    if not path.exists() or not path.is_file() or not path.stat().st_size:
        return
    with reading_study(path):
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=SECONDS_TO_WAIT)
        try:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            check = database.execute("pragma quick_check(1)").fetchone()[0]
        finally:
            database.close()
        if check != "ok":
            raise sqlite3.DatabaseError(check)
    if not {"studies", "trials", "alembic_version"} <= tables:
        raise UsageError("study-foreign", f"{path} is not a study of Optuna's; move it away, or use --name")


def storage_of(path: Path) -> optuna.storages.RDBStorage:
    """SQLite, opened by path: in a URL, some letters of a path would mean something else."""
    connect = partial(sqlite3.connect, path, timeout=SECONDS_TO_WAIT, check_same_thread=False)
    return optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


def trial_id_of(storage: optuna.storages.RDBStorage, study: optuna.Study, number: int) -> int:
    """Returns the id in the file of the trial with this number."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


@contextmanager
def reading_study(path: Path) -> Iterator[None]:
    """Turns any error about a study's content, which may be of any kind, into a UserError."""
    try:
        with using_study(path):
            yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise _damaged(path, error) from error


@contextmanager
def using_study(path: Path) -> Iterator[None]:
    """Turns errors of the database into a UserError."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        inner = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        inner = getattr(inner, "orig", inner)
        if isinstance(inner, sqlite3.OperationalError) and "no such" not in str(inner):
            sentence = f"{path} can't be written ({reason(inner)}); fix that, or choose another place with {RUNS_FLAG}"
            raise UserError("not-writable", sentence) from error
        raise _damaged(path, error if inner is None else inner) from error


def _damaged(path: Path, error: BaseException) -> UserError:
    why = reason(error) if isinstance(error, Exception) else str(error)
    return UserError("study-damaged", f"{path} is damaged ({why}); move it away to begin anew, or use --name")
