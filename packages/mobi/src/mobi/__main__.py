"""`python -m mobi`."""

from mobi.cli import entry

entry()
