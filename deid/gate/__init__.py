"""A safe picture or none: every face anonymized, judged, masked if need be, and swept for again."""
