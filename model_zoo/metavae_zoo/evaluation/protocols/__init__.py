"""The protocols by which codes are judged; PROTOCOLS lists them by name."""

from metavae_zoo.evaluation.protocols.base import Protocol, Sizes
from metavae_zoo.evaluation.protocols.few_shot import FewShot
from metavae_zoo.evaluation.protocols.knn import Knn
from metavae_zoo.evaluation.protocols.linear import Linear
from metavae_zoo.evaluation.protocols.transfer import Transfer

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (Linear, Transfer, FewShot, Knn)
}

__all__ = ["PROTOCOLS", "FewShot", "Knn", "Linear", "Protocol", "Sizes", "Transfer"]
