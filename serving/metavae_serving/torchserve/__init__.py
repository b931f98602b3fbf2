"""TorchServe: the handler, packed stores, start, stop and its management API."""
