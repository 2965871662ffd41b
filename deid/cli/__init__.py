"""The command line, one file a command group: thin, and quick to say its help."""

from deid.cli.main import app, main

__all__ = ["app", "main"]
