"""Errors whose message is a sentence for people, apart from what raises them, so that catching one imports little."""


class TrackingError(RuntimeError):
    """MLflow cannot be reached or refuses; the message is a sentence for people."""
