"""The one exception a person is meant to read."""


class DeidError(Exception):
    """Something a person can mend: the message names what was wrong, where, and what to do.

    The command line prints it as one line and exits with 1; everything else is a bug.
    """
