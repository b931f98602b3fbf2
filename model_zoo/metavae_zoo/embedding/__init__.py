"""Embeddings in process: ONNX graphs, summaries of contexts, inferred sites, 8 bits."""
