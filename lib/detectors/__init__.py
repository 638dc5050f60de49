"""Detectors of anomalies, a file for each family; `registry` makes one by its name."""
