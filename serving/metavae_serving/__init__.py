"""From a bundle of the zoo to embeddings over HTTP, on TorchServe.

`answering` turns requests into responses and knows no server. `torchserve` packs bundles into a
model store and starts, watches and stops a server over it; `torchserve.handler` is called by it.
"""
