"""Runs over files and buckets: settings, pipeline, plan, workers, manifest, resume."""
