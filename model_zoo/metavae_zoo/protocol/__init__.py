"""The Open Inference Protocol, both ways: tensors, bodies, errors."""
