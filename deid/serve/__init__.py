"""The trained anonymiser as a registered model: what is in a version, gates, aliases, serving."""
