from graft_bench.cli import entry

entry()
