"""`python -m graft_bench.call NAME module:function ARGS...`: a method needs its entry point and nothing else."""

import sys
from importlib.metadata import EntryPoint

from graft_bench.methods import GROUP


def main(argv: list[str]) -> int:
    """Load `module:function` and return what it returns for the remaining arguments."""
    name, value, *rest = argv
    return int(EntryPoint(name, value, GROUP).load()(rest) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
