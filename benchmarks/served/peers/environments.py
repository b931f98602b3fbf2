"""One virtual environment per peer, made once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime

from metavae_zoo.files import write_whole
from served.peers.catalog import Peer, PeerFailed

_MADE = "requirements.txt"  # written last, so that a folder which has it is whole
# What the model needs, see `model.py`; ONNX Runtime in our own version, for the same bits.
_MODEL = (
    f"onnxruntime=={onnxruntime.__version__}",
    "numpy>=1.26",
    "safetensors>=0.4.3",
    "pydantic>=2.7",
    "platformdirs>=4.0",
)
_LIST = """
import importlib.metadata, json
found = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
print(json.dumps(dict(sorted(found.items()))))
"""


def make_environment(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment below `folder`, made anew unless it is there and whole.

    Raises PeerFailed where pip finds or builds no such packages.
    """
    place = folder.absolute() / peer.key
    python = place / "bin" / "python"
    wanted = "".join(f"{one}\n" for one in (*peer.requirements, *_MODEL))
    made = place / _MADE
    if made.is_file() and made.read_text() == wanted:
        return python
    shutil.rmtree(place, ignore_errors=True)
    _run([sys.executable, "-m", "venv", place])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", *wanted.split()])
    write_whole(made, wanted.encode())
    return python


def versions(python: Path) -> dict[str, str]:
    """Every package of an environment, and its version."""
    return json.loads(_run([python, "-c", _LIST]))


def _run(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR:")]
        raise PeerFailed(f"it cannot be installed: {(errors or lines)[0]}")
    return done.stdout
