"""The model that MLflow holds: loaded where nothing of this project is, and without unpickling."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.tracking.grids import log_best
from orchestrator.tracking.mirror import MlflowMirror
from orchestrator.tracking.uri import how_to_see
from querying.base.files import read_json
from tests.mlflow_files import sqlite_uri
from tests.small import small_config

LOADED = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
images = np.load("images.npy")
for name in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(name)
    found = model.predict(images)
    assert model.predict(model.input_example).shape[0] == 1
    assert "benchmarks" not in sys.modules and "torch" not in sys.modules
    print(json.dumps([str(found.dtype), found.tolist(), str(model.metadata.signature.inputs)]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_model_of_a_run_and_the_best_of_a_sweep_are_loaded_in_a_fresh_process(finished, toy_data, tmp_path):
    from benchmarks.deploy.onnx_file import export_onnx
    from querying.dataset.shards import ImageStore
    from training.inference.predictor import Predictor

    checkpoint = finished / "cycle-002/checkpoint"
    root = tmp_path / "with 'quote"
    run = Path(shutil.copytree(finished, root / "run"))
    export_onnx(checkpoint, run / "model.onnx")
    uri = sqlite_uri(root / "mlflow.db")
    data = {"name": "toy", "digest": "a" * 64, "root": "x"}
    mirror = MlflowMirror(run, small_config(), data, uri)
    mirror.finish(None, run / "model.onnx")
    assert read_json(run / "mlflow.json")["status"] == "FINISHED"
    log_best(uri, run, run / "model.onnx", "toy.sweep")
    log_best(uri, run, run / "model.onnx", "toy.sweep")  # the same version

    store = ImageStore(toy_data, "test")
    images = np.stack([store.image(name) for name in store.ids()[:3]])
    np.save(tmp_path / "images.npy", images)
    parent = read_json(run / "mlflow.json")["parent"]
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""}
    command = [
        sys.executable,
        "-c",
        LOADED,
        uri,
        f"runs:/{parent}/model",
        "models:/toy.sweep@best",
        "models:/toy.sweep/1",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    import torch

    logits = Predictor(checkpoint)(torch.from_numpy(images).permute(0, 3, 1, 2), 1.0)
    full = torch.nn.functional.interpolate(logits, images.shape[1:3], mode="bilinear", align_corners=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for kind, found, signature in lines:
        assert kind == "uint8"
        assert "uint8" in signature
        assert (np.array(found) == full.argmax(1).numpy()).mean() > 0.999
    stored = [path for path in (root / "mlartifacts").rglob("*") if path.is_file()]
    assert {"MLmodel", "requirements.txt", "mlflow_pyfunc.py", "model.onnx"} <= {path.name for path in stored}
    assert not [path for path in stored if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]


def test_the_command_that_is_printed_can_be_pasted_into_a_shell(tmp_path):
    uri = f'sqlite:///{tmp_path}/it\'s "a" $run/mlflow.db'
    words = how_to_see(uri).replace("mlflow ui", "printf '%s\\n'", 1)
    said = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["--backend-store-uri", uri]


@pytest.mark.filterwarnings("ignore")  # of MLflow's own modules, where nothing has imported them yet
def test_mlflow_has_nothing_to_say_of_the_code_that_it_copies():
    """It would say so on the user's terminal: filters of warnings are the whole process's, and it works in a thread."""
    import warnings

    import orchestrator.tracking.mlflow_pyfunc as code

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        importlib.reload(code)
    assert [str(one.message) for one in said if "hint" in str(one.message)] == []
