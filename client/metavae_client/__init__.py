"""Embeddings over HTTP, and the probes that judge them; imports neither torch nor a runtime.

`RemoteEmbedder` (remote) embeds with a served model, `run_probe` (probe) measures any embedder.
A `Summary` is kept by `write_summary`; every error is a `MetavaeError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metavae_client.errors import (
        BadReply,
        GaveUp,
        RequestRefused,
        ServerUnreachable,
        Unauthorized,
    )
    from metavae_client.files import read_summary, write_summary
    from metavae_client.remote import RemoteEmbedder
    from metavae_zoo.embedding.summary import Summary
    from metavae_zoo.errors import MetavaeError
    from metavae_zoo.evaluation.probe import run_probe
    from metavae_zoo.evaluation.reporting.result import ProbeResult
    from metavae_zoo.evaluation.settings import ProbeSettings

__all__ = [
    "BadReply",
    "GaveUp",
    "MetavaeError",
    "ProbeResult",
    "ProbeSettings",
    "RemoteEmbedder",
    "RequestRefused",
    "ServerUnreachable",
    "Summary",
    "Unauthorized",
    "read_summary",
    "run_probe",
    "write_summary",
]

_MODULES = {
    "BadReply": "metavae_client.errors",
    "GaveUp": "metavae_client.errors",
    "MetavaeError": "metavae_zoo.errors",
    "ProbeResult": "metavae_zoo.evaluation.reporting.result",
    "ProbeSettings": "metavae_zoo.evaluation.settings",
    "RemoteEmbedder": "metavae_client.remote",
    "RequestRefused": "metavae_client.errors",
    "ServerUnreachable": "metavae_client.errors",
    "Summary": "metavae_zoo.embedding.summary",
    "Unauthorized": "metavae_client.errors",
    "read_summary": "metavae_client.files",
    "run_probe": "metavae_zoo.evaluation.probe",
    "write_summary": "metavae_client.files",
}


def __getattr__(name: str) -> object:
    """A public name, whose module is loaded at its first use: `--help` needs none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
