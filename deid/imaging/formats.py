"""Which pictures are read, told by their names; imports no library."""

FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jps"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), "HEIF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpx", ".jpf"), "JPEG2000"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tga": "TGA",
}
"""What a name that ends so promises to hold."""

SUFFIXES = frozenset(FORMAT_OF)
