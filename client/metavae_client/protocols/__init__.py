"""The protocols by which codes are judged; PROTOCOLS lists them by name."""

from metavae_client.protocols.base import Protocol
from metavae_client.protocols.few_shot import FewShot
from metavae_client.protocols.knn import Knn
from metavae_client.protocols.linear import Linear
from metavae_client.protocols.transfer import Transfer

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (Linear, Transfer, FewShot, Knn)
}

__all__ = ["PROTOCOLS", "FewShot", "Knn", "Linear", "Protocol", "Transfer"]
