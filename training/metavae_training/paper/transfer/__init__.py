"""Transfer: one classifier of the training sites' labels, tested at every site held out.

The headline of `metavae-train paper context`: transfer against the size of the context, beside the
baselines that a reader would ask for, under few labels and under wrong contexts.
"""
