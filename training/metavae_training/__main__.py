"""`python -m metavae_training` is `metavae-train`."""

from metavae_training.cli import main

main(prog_name="metavae-train")
