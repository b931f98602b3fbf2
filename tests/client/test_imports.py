"""A client needs neither torch nor a runtime."""

import subprocess
import sys

CHECK = """
import sys
from metavae_client import RemoteEmbedder, run_probe
import metavae_client, metavae_client.cli, metavae_client.remote, metavae_zoo.evaluation.probe
import metavae_zoo.evaluation.reporting.plots, metavae_zoo.evaluation.reporting.table
import metavae_zoo.evaluation.protocols, metavae_client.files
heavy = {"torch", "torchvision", "onnxruntime", "onnx"} & set(sys.modules)
slow = {"sklearn", "matplotlib"} & set(sys.modules)
sys.exit(f"imported {heavy | slow}" if heavy | slow else 0)
"""


def test_importing_the_client_imports_no_torch_and_nothing_slow():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
