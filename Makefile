# From a clean clone with python3 (>= 3.11, with venv), git and make: `make demo` and `make test` do everything.
# uv goes into .tools/ of this folder when it is not on PATH; temporary files go there as well.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
export TMPDIR := $(CURDIR)/.tools/tmp
# Two torch threads that spin while another process wants the core cost a factor of ten.
export GOMP_SPINCOUNT := 0
export OMP_WAIT_POLICY := PASSIVE
test test-all: export HF_HUB_OFFLINE := 1
test test-all: export OMP_NUM_THREADS := 1

.PHONY: demo test test-all lint bench claims lock clean
demo: | $(UV) .tools/tmp
	$(UV) run --all-packages graft-bench demo --out out/demo

test: | $(UV) .tools/tmp
	$(UV) run --all-packages pytest -n 2 --dist loadfile

test-all: | $(UV) .tools/tmp
	$(UV) run --all-packages pytest -m "" --timeout 3600

lint: | $(UV) .tools/tmp
	$(UV) run --all-packages ruff check . && $(UV) run --all-packages mypy

bench: | $(UV) .tools/tmp
	for script in benchmarks/bench_*.py; do $(UV) run --all-packages python $$script || exit 1; done

claims: | $(UV) .tools/tmp
	$(UV) run --all-packages python tools/tficomp_claims.py
	$(UV) run --all-packages python tools/didgen_claims.py
	$(UV) run --all-packages python tools/diffusionmix_claims.py
	$(UV) run --all-packages python tools/mobi_claims.py

lock: | $(UV) .tools/tmp
	$(UV) run --all-packages python tools/lock.py

clean:
	rm -rf .venv .tools .pytest_cache .ruff_cache .mypy_cache .hypothesis out build dist

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv

.tools/tmp:
	mkdir -p .tools/tmp
