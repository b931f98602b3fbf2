"""Embeddings over HTTP, and the probes that judge them; imports neither torch nor a runtime.

`RemoteEmbedder` (remote) embeds with a served model, `run_probe` (probe) measures any embedder.
A `Summary` is kept by `write_summary`; every error is a `MetavaeError`.
"""

from metavae_client.errors import BadReply, GaveUp, RequestRefused, ServerUnreachable, Unauthorized
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
