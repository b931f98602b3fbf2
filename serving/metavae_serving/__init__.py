"""From a bundle of the zoo to embeddings over HTTP, on TorchServe.

`wire` is the language of requests and replies (numpy only; the client speaks it too), `handler`
TorchServe's adapter, `archive` turns bundles into a model store, `launch` starts and stops it.
"""
