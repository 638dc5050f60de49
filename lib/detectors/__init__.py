"""The contract and the sign of scores, the families, naive rules, ONNX graphs."""
