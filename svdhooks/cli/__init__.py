"""The command line. Reading a log loads no torch; each command imports what it needs."""

# the help lists the commands in the order in which they are declared
# isort: off
from svdhooks.cli.root import app, main
from svdhooks.cli import reading, measuring, trying

__all__ = ["app", "main", "measuring", "reading", "trying"]
