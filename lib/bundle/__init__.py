"""The exported model: written whole, verified, loaded, scored, explained; raw transactions for it.

All that the server and its image need of this project: numpy, onnxruntime and the standard
library.
"""

from lib.bundle.bundle import Bundle, bundle_hash, load, verify, write
from lib.errors import BundleError

__all__ = ["Bundle", "BundleError", "bundle_hash", "load", "verify", "write"]
