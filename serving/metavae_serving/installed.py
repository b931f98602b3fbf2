"""What serving needs, beside Java, and a base install does not bring."""

from __future__ import annotations

from importlib.util import find_spec

from metavae_serving.errors import NotInstalled

# Module: distribution. TorchServe's workers import torch and yaml, though it declares neither.
_NEEDED = {
    "model_archiver": "torch-model-archiver",
    "onnxruntime": "onnxruntime",
    "psutil": "psutil",
    "torch": "torch",
    "ts": "torchserve",
    "yaml": "pyyaml",
}


def check_installed() -> None:
    """Raise NotInstalled if a package that packing or serving needs is missing; imports none."""
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise NotInstalled(
            f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not"
            " installed",
            hint="`pip install 'metavae[serve]'`",
        )
