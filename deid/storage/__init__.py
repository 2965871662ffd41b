"""Folders and buckets behind one protocol; files that appear whole or not at all."""
