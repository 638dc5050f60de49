"""After deployment: replay, drift, late labels, policies, retraining, scoring of new tables."""
