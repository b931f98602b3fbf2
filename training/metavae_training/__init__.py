"""Train MetaVAE and its baselines over families of distributions, and export them to ONNX."""
