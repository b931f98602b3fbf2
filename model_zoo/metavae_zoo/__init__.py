"""What a metavae model is, which exist, how it embeds, and how it is judged.

The zoo stands under the other three packages and imports none of them.
"""

import os

# ONNX Runtime from 1.29 on sends telemetry unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
