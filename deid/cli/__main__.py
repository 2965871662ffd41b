"""`python -m deid.cli`."""

from deid.cli.main import main

main()
