"""`python -m didgen`."""

from didgen.cli import entry

entry()
