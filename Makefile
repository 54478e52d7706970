# make demo   install into .venv and run the main job: with and without deep supervision, on real images
# make test   install into .venv with the test extra and run the whole suite
# make check  linters, strict types, import order, exported names
# Each is safe to run again. PYTHON=python3.12 chooses another interpreter (3.10 or later).
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt
INPUTS = pyproject.toml constraints.txt

.PHONY: demo test check clean

demo: .venv/.demo
	.venv/bin/deepsup compare examples/digits-comparison.yaml

test: .venv/.test
	.venv/bin/python -m pytest -n 2

check: .venv/.check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/project/test_layout.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python $(INPUTS)
	$(PIP) -e ".[cli]"
	touch $@

.venv/.test: .venv/bin/python $(INPUTS)
	$(PIP) -e ".[test]"
	touch $@

.venv/.check: .venv/bin/python $(INPUTS)
	$(PIP) -e ".[check]"
	touch $@

clean:
	rm -rf .venv runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
