"""The network: its graph, what it expects and gives, and how it is run on tiles."""

import os

# ONNX Runtime's packages report to their maker what they run and where, and keep a database of it under the user's
# caches, unless the environment says otherwise before the first import of any part of them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
