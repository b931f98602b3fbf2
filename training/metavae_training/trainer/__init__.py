"""The training loop: data, epochs, checkpoints, devices."""
