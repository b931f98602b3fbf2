"""From a bundle of the zoo to embeddings over HTTP, on TorchServe.

`wire` is the language of requests and replies, which the client speaks too; `handler` is
TorchServe's adapter; `archive` turns bundles into a model store, `launch` starts a server over it,
and `stop` stops it.
"""
