"""The floor: a TorchServe handler that does nothing, in the same server as the model.

What it answers is as long as the model's reply to the same request would be. TorchServe's own part
of its worker is as light as that of the model's.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve.configuration import model_configuration
from metavae_serving.torchserve.store import SUMS, Store, sums

NAME = "noop"

_HANDLER = """\
from metavae_serving.torchserve.patch import patch_torchserve

_REPLIES = {}

def handle(data, context):
    if data is None:
        patch_torchserve(context.metrics)
        return None
    size = int(context.get_request_header(0, "Reply-Bytes"))
    reply = _REPLIES.setdefault(size, bytes(size))
    for index in range(len(data)):
        context.set_response_header(index, "content-type", "application/octet-stream")
    return [reply] * len(data)
"""


def add_noop(store: Store, like: ModelSettings) -> Store:
    """Put the handler into a model store, as model `noop`, served like the model beside it."""
    models = {**store.settings.models, NAME: like}
    store = store.configured(replace(store.settings, models=models))
    with TemporaryDirectory() as scratch:
        handler, yaml = Path(scratch, "noop.py"), Path(scratch, "model-config.yaml")
        handler.write_text(_HANDLER)
        yaml.write_text(model_configuration(like))
        subprocess.run(
            [sys.executable, "-m", "model_archiver.model_packaging", f"--model-name={NAME}",
             "--version=1.0", f"--handler={handler}", f"--config-file={yaml}",
             f"--export-path={store.path}", "--archive-format=zip-store"],
            check=True, capture_output=True, env={"TMPDIR": scratch, "PATH": ""},
        )  # fmt: skip
    (store.path / SUMS).write_text(sums(store.path))
    return store
