"""Metrics and their intervals, thresholds, the comparison, the rule for promotion."""
