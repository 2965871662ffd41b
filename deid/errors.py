"""The one exception a person is meant to read."""


class DeidError(Exception):
    """Something a person can fix: the message names what was wrong, where, and what to do.

    The command line prints it as one line and exits with 1; everything else is a bug. It may quote
    a file's name or content, so line breaks and what a terminal would obey are made visible.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)))


class NoFile(DeidError):
    """A file that whoever runs deid named is missing or of no use. The message names it: it is for
    them, and not for the clients of a service."""


def printable(text: str) -> str:
    """`text` in one line, what a terminal would obey made visible."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character == "\n" else character.encode("unicode_escape").decode()


def missing_extra(error: ModuleNotFoundError, extra: str) -> str:
    """What to say of a package that only `extra` installs; `error` again if a module is ours."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "deid", "flows"):
        raise error
    command = f"pip install '.[{extra}]'"
    return f"this needs {package}, which is not installed; run {command} in deid's checkout"
