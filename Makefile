# Two commands: `make demo` shows it, `make test` proves it. Both set everything up first.

PYTHON ?= python3.11
OURS := .venvs/lookhere
THEIRS := .venvs/label-studio
AUDIT := .venvs/audit
RUN := $(OURS)/bin
TESTS ?= tests

.PHONY: install browser demo test check audit bench clean

install: $(OURS)/.installed $(THEIRS)/.installed

$(OURS)/.installed: pyproject.toml constraints/lookhere.txt
	$(PYTHON) -m venv $(OURS)
	$(RUN)/pip install --quiet --upgrade "pip>=25.1"
	$(RUN)/pip install --quiet --constraint constraints/lookhere.txt --editable . --group dev
	# The release on PyPI pins Flask 1.1.2 and forgets rq and redis: without its pins it runs beside ours.
	$(RUN)/pip install --quiet --no-deps label-studio-ml==1.0.9
	touch $@

# Label Studio's pins fight with ours.
$(THEIRS)/.installed: constraints/label-studio.txt
	$(PYTHON) -m venv $(THEIRS)
	$(THEIRS)/bin/pip install --quiet --constraint constraints/label-studio.txt label-studio
	touch $@

browser:
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

# SIMULATE=1 clicks by itself, in rounds, and reports what it won.
demo: install
	$(RUN)/lookhere demo $(if $(SIMULATE),--simulate)

# Tests share few cores; one thread each is faster than all threads at once.
test: export OMP_NUM_THREADS = 1
test: install browser check
	$(RUN)/pytest --numprocesses 2 --dist loadgroup $(TESTS)

check: install
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

# What of our pins is known to be vulnerable by now. What could not be looked up is an error, too: here pip-audit alone
# would say that nothing is known.
audit: $(AUDIT)/.installed
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints/lookhere.txt

$(AUDIT)/.installed: pyproject.toml
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(AUDIT)/bin/pip install --quiet --group audit
	touch $@

bench: install
	$(RUN)/lookhere bench guidance --data digits --out benchmarks/out

clean:
	rm -rf .venvs .lookhere
