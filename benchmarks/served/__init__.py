"""How fast a server answers: what `benchmarks/serving.py` and its peers are measured by."""
