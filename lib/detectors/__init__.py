"""Detectors: the contract and the sign of scores, the families, naive rules, and how each becomes
ONNX.
"""
