"""The trained anonymizer as a registered model: contents of a version, gates, aliases, pyfunc."""
