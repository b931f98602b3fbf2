"""Embeddings over HTTP, and the linear probes that judge them; imports neither torch nor a runtime.

`RemoteEmbedder` (remote) embeds with a served model, `linear_probe` (probe) measures any embedder.
"""

from metavae_client.probe import linear_probe
from metavae_client.remote import RemoteEmbedder
from metavae_client.result import ProbeResult
from metavae_client.sample import Protocol

__all__ = ["ProbeResult", "Protocol", "RemoteEmbedder", "linear_probe"]
