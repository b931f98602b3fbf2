"""Other servers of the same encoder, each as its own documentation would have it be fast.

`model.py` and the `*_server.py` files run in the peers' environments, which hold neither
metavae's server nor its client; the other files run where `benchmarks/peers.py` does.
"""
