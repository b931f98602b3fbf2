"""The name of TorchServe's handler that packed archives import."""

from metavae_serving.torchserve.handler import handle

__all__ = ["handle"]
