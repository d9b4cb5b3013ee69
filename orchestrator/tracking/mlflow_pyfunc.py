"""What is logged beside `model.onnx`, and run wherever `mlflow.pyfunc.load_model` loads it: photographs to class ids.

MLflow copies this file as text, so that nothing is unpickled; it imports nothing of this project.
"""

import json
from typing import Any

import mlflow
import numpy as np
import onnxruntime
from mlflow.pyfunc.model import PythonModel


class Segmenter(PythonModel):
    def load_context(self, context: Any) -> None:
        self.session = onnxruntime.InferenceSession(context.artifacts["onnx"], providers=["CPUExecutionProvider"])
        facts = self.session.get_modelmeta().custom_metadata_map
        self.mean_3, self.std_3 = (np.array(json.loads(facts[name]), np.float32) for name in ("mean", "std"))

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """RGB images (N, H, W, 3), uint8, to the most probable class of each pixel (N, H, W), uint8."""
        image_NHWC = (np.asarray(model_input, np.float32) / 255 - self.mean_3) / self.std_3
        image_NCHW = np.ascontiguousarray(image_NHWC.transpose(0, 3, 1, 2))
        (logits_NCHW,) = self.session.run(["logits"], {"image": image_NCHW})
        return logits_NCHW.argmax(1).astype(np.uint8)


mlflow.models.set_model(Segmenter())
