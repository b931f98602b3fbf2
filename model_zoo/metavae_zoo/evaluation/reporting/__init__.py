"""Results of probes as records, tables and figures."""
