# Every target sets up .venv by itself on a machine with Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
TEST_ARGS ?= -n auto

.PHONY: quickstart test slow attack soak large lock audit sbom check format clean

# torch first and pinned: see constraints.txt
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[offline]"
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

quickstart: .venv/ready
	$(BIN)/braidrec quickstart

test: check
	$(BIN)/python -m pytest $(TEST_ARGS)

# the long forms of attacks are those of `make attack`
slow: .venv/ready-dev
	$(BIN)/python -m pytest --slow -m slow --ignore tests/attack $(TEST_ARGS)

# everything that is tried against this build, and one table of it; tests/attack runs its short form in `make test`
attack: .venv/ready-dev
	$(BIN)/python -m pytest --slow tests/attack $(TEST_ARGS)

# 100,000 recommendations and 1,000 added items in one process: what its memory grows by
soak: .venv/ready
	$(BIN)/python benchmarks/soak.py

# memory of what is asked of a catalogue of a million items, against budgets
large: .venv/ready
	$(BIN)/python benchmarks/large.py .large

.venv/tools: .venv/ready
	$(PYTHON) -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet uv pip-audit cyclonedx-bom

# what is installed here, file by file with its digest; uv reads none of pip's settings, so a folder of wheels is named to it
lock: .venv/ready-dev .venv/tools
	$(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools > .venv/tested.txt
	( sed -n '/^#/p' requirements.lock; .venv/tools/bin/uv pip compile pyproject.toml --extra offline --group dev \
		--constraint .venv/tested.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet \
		$${PIP_FIND_LINKS:+--find-links "$$PIP_FIND_LINKS"} ) > .venv/requirements.lock
	mv .venv/requirements.lock requirements.lock

# known holes of what is installed here; needs PyPI's own advisories
audit: .venv/ready-dev .venv/tools
	.venv/tools/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') --skip-editable

# a bill of materials for a release (CycloneDX, JSON)
sbom: .venv/ready-dev .venv/tools
	.venv/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
		--output-file braidrec.cdx.json $(BIN)/python

check: .venv/ready-dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/ready-dev
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf .venv
