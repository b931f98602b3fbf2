# pyright: reportMissingImports=false
"""PyTriton: one instance behind Triton, whose HTTP takes the v2 protocol's binary tensors."""

import os
import sysconfig

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from served.peers.model import Model, port

if __name__ == "__main__":
    model = Model()

    def embed(requests):
        """Embed the queries of each request."""
        replies = []
        for request in requests:
            found = model.embed(request["queries"], request["summary"], int(request["count"][0]))
            replies.append({"embedding": found.mean, "log_variance": found.log_variance})
        return replies

    # Triton starts a Python of its own, which must be this one.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    settings = TritonConfig(
        http_address="127.0.0.1", http_port=port(), allow_grpc=False, allow_metrics=False
    )
    latent = (-1, model.card.latent_dim)
    with Triton(config=settings) as triton:
        triton.bind(
            model_name="embed",
            infer_func=embed,
            inputs=[
                Tensor(name="queries", dtype=np.uint8, shape=(-1, *model.card.image_shape)),
                Tensor(name="summary", dtype=np.float64, shape=(model.card.feature_dim,)),
                Tensor(name="count", dtype=np.int64, shape=(1,)),
            ],
            outputs=[
                Tensor(name="embedding", dtype=np.float32, shape=latent),
                Tensor(name="log_variance", dtype=np.float32, shape=latent),
            ],
            config=ModelConfig(batching=False),
        )
        triton.serve()
