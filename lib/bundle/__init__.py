"""The exported model: ONNX graphs and a manifest, written whole, verified, loaded, scored and
explained.

All that the server and its image need of this project: numpy, onnxruntime and the standard library.
"""

from lib.bundle.bundle import Bundle, bundle_hash, load, verify, write
from lib.errors import BundleError

__all__ = ["Bundle", "BundleError", "bundle_hash", "load", "verify", "write"]
