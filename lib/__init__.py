"""The one definition of what notebooks, pipeline and server share."""
