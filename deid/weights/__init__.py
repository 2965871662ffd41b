"""Public weight files: catalog, store, download, safe readers, importers into our networks."""
