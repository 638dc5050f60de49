"""Candidates on disk and in MLflow, the champion, its export, and what is served now."""
