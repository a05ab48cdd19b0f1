"""`python -m tficomp`."""

from tficomp.cli import entry

entry()
