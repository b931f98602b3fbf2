"""What the experiments measure: cells, results files, their provenance."""
