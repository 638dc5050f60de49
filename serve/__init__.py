"""The prediction API: answers for the exported bundle with numpy and onnxruntime."""
