"""Pixels in, pixels out: file formats, metadata, cropping, pasting, blending."""
