"""How a model is judged: probes by several protocols, baselines, transfer."""
