"""A run's model in MLflow: the ONNX file and a few lines of code that run it, so that loading it unpickles nothing."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

CODE = Path(__file__).with_name("mlflow_pyfunc.py")
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime")
FREE = 64
"""Pixels of the example's sides, where the network takes any."""
FOLDER = "model"
"""Folder of the model among a run's artefacts."""


@contextmanager
def packed(onnx: Path) -> Iterator[Path]:
    """The model as a folder for `mlflow.pyfunc.load_model`: RGB images (N, H, W, 3), uint8, in, class ids (N, H, W),
    uint8, out."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of type hints that MLflow can not read
        save_model(onnx, Path(folder) / FOLDER)
        yield Path(folder) / FOLDER


def log_model(client: Any, run: str, folder: Path) -> None:
    """Put a packed model into a run.  Raises whatever MLflow raises."""
    client.log_artifacts(run, str(folder), FOLDER)


def register(client: Any, name: str, run: str) -> None:
    """A version for this run's model, once, and the alias `best` on it."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = [one for one in client.search_model_versions(f"name = '{name}'") if one.run_id == run]
    source = f"{client.get_run(run).info.artifact_uri}/{FOLDER}"
    version = found[0] if found else client.create_model_version(name, source, run_id=run)
    client.set_registered_model_alias(name, "best", version.version)


def save_model(onnx: Path, folder: Path) -> None:
    """Write it: code, ONNX file, signature, example, requirements; nothing that is unpickled."""
    import mlflow.pyfunc
    import numpy as np
    import onnxruntime
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    sides = [side if isinstance(side, int) else -1 for side in session.get_inputs()[0].shape[2:]]
    byte = np.dtype(np.uint8)
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(CODE),
        artifacts={"onnx": str(onnx)},
        signature=ModelSignature(Schema([TensorSpec(byte, (-1, *sides, 3))]), Schema([TensorSpec(byte, (-1, *sides))])),
        input_example=np.full((1, *(FREE if side < 0 else side for side in sides), 3), 127, np.uint8),
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
