"""SQLite files for MLflow.  Its migrations of a new one take seconds, so they are made once in a process and copied."""

import functools
import shutil
import tempfile
import warnings
from pathlib import Path


@functools.cache
def _migrated() -> Path:
    from mlflow import MlflowClient

    path = Path(tempfile.mkdtemp(prefix="s4al-mlflow-")) / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's and SQLAlchemy's, of each other
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def sqlite_uri(path: Path) -> str:
    """The URI of the store at `path`, a new and empty one where there is none."""
    if not path.exists():
        shutil.copy(_migrated(), path)
    return f"sqlite:///{path}"
