"""Embeddings over HTTP, and the probes that judge them; imports neither torch nor a runtime.

`RemoteEmbedder` (remote) embeds with a served model, `run_probe` (probe) measures any embedder.
"""

from metavae_client.probe import run_probe
from metavae_client.remote import RemoteEmbedder
from metavae_client.result import ProbeResult
from metavae_client.settings import ProbeSettings

__all__ = ["ProbeResult", "ProbeSettings", "RemoteEmbedder", "run_probe"]
