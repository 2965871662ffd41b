"""Faces in a picture: where they are, their landmarks, FFHQ alignment, detection."""
