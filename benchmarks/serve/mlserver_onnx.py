"""An ONNX graph as MLServer's custom runtime; MLServer has none for ONNX of its own."""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    """Answers raw scores for the input `features`."""

    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload):
        features = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        scores = self.session.run(["raw_score"], {"features": features})[0]
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("raw_score", scores)]
        )
