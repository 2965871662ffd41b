"""The record of a batch made tamper-evident: seal, keys, summary page."""
