"""HEIC joins Pillow's formats when the first such file comes, and not before."""

import functools


@functools.cache
def open_heif() -> None:
    """Load libheif and register it."""
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
