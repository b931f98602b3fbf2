"""The paper's experiments: each trains what is missing, measures it, writes table and figure."""
