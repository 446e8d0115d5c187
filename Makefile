# Every target sets up .venv by itself on a machine with Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
TEST_ARGS ?= -n auto

.PHONY: quickstart test slow attack check format clean

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

slow: .venv/ready-dev
	$(BIN)/python -m pytest --slow -m slow $(TEST_ARGS)

attack: .venv/ready-dev
	$(BIN)/python -m pytest --slow tests/attack $(TEST_ARGS)

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
