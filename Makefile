# Two commands do all there is to set up: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUILT_FROM := pyproject.toml setup.py $(wildcard cxfr_proxy/*/*.[ch] cxfr_proxy/*/*/*.[ch])

# Thousands of tests watch processes from outside, and a machine may stand still for longer than one of them waits. So
# what failed is run once more, with nothing beside it, and fails if it fails again; both runs are printed. Exit code 1
# is "ran, and some failed": nothing else is tried again, since what failed is known only then.
define pytest
$(1)/pytest $(3) $(2) || { [ $$? = 1 ] && echo "Once more, alone, what has failed:" \
	&& $(1)/pytest --last-failed --last-failed-no-failures none $(2); }
endef

# In the order of tests/conftest.py.
IN_ORDER := --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-lowest clients bench lint types docs site dist lock audit sbom deb clean

demo: $(VENV)/.installed
	$(BIN)/cxfr-proxy demo

# Everything that has to hold: formatting, lint, types, tests. Tests against real servers skip, with a reason, where a
# server is not installed; CXFR_REQUIRE_REAL=1 makes that a failure. They wait more than they work, so two run at once,
# and .ci/run sees by the file that there is room for something beside them. mypy has one core for a minute, and runs
# beside the first ones.
test: $(VENV)/.installed-test
	@rm -f $(VENV)/.tested-alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy >$(VENV)/.types 2>&1 & types=$$!; \
	{ $(call pytest,$(BIN),--ignore tests/real,--numprocesses 3 $(IN_ORDER)); }; tested=$$?; \
	wait $$types; typed=$$?; cat $(VENV)/.types; exit $$((tested | typed))
	@touch $(VENV)/.tested-alone
	$(call pytest,$(BIN),tests/real,--numprocesses 2 $(IN_ORDER))

# What a version can break, with the oldest ones that pyproject.toml allows.
test-lowest:
	PIP_CONSTRAINT=tests/lowest.txt $(MAKE) VENV=$(VENV)-lowest $(VENV)-lowest/.installed-test
	$(call pytest,$(VENV)-lowest/bin,$(addprefix --ignore tests/,bench e2e fuzz real),--numprocesses 3 $(IN_ORDER))

# Which client programs are back after which kind of move, in front of real nodes: docs/clients.md. CLIENTS are options,
# of which `make clients CLIENTS=--help` tells.
clients: $(VENV)/.installed-test
	PYTHONPATH=tests:tests/helpers $(BIN)/python -m clients $(CLIENTS)

# Every table and plot beside HAProxy and nginx, as far as they are installed: a quarter of an hour. See bench/README.md.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench all

# References are drawn from the tables in cxfr_proxy/config/table.py and admin/metrics/table.py; tests hold them together.
docs: $(VENV)/.installed
	$(BIN)/python -c 'from cxfr_proxy.config import settings, table; print(end=settings.render_markdown(table.SETTINGS))' \
		> docs/configuration.md
	$(BIN)/python -c 'from cxfr_proxy.config import sample, table; print(end=sample.render_sample(table.SETTINGS))' \
		> packaging/settings.toml
	$(BIN)/python -c 'from cxfr_proxy.admin.metrics import reference; print(end=reference.render_markdown())' > docs/metrics.md
	$(BIN)/python -c 'from cxfr_proxy.session import chart; print(end=chart.render_markdown())' > docs/session-states.md
	$(BIN)/python -c 'import pathlib; from cxfr_proxy.doctor import reference; page = pathlib.Path("docs/doctor.md"); \
		page.write_text(reference.put_into(page.read_text()))'

# The pages as a site in build/site, to be read from the disk or to be put on a web server. A link that leads nowhere is
# an error.
site: $(VENV)/.installed-site
	rm -rf build/pages build/site
	mkdir -p build/pages/bench
	cp -r docs packaging LICENSE *.md build/pages
	cp -r bench/README.md bench/results build/pages/bench
	$(BIN)/mkdocs build --quiet --strict --config-file packaging/site/mkdocs.yml

# What is published: the sources, and a wheel for every Python from 3.11 on (abi3), whose tag says from which glibc on it
# runs. Both are looked at by those who know.
dist: $(VENV)/.installed-dist
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
	$(BIN)/abi3audit --strict --summary dist/*.whl

# The versions that packages are built with, for every Python that is supported; then what is known against them.
lock: $(VENV)/.installed-dist
	UV_DEFAULT_INDEX="$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}" \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra titles --generate-hashes --upgrade \
		--no-emit-index-url --custom-compile-command "make lock" --output-file packaging/requirements.txt pyproject.toml

audit: $(VENV)/.installed-dist
	$(BIN)/pip-audit --require-hashes --no-deps --strict --requirement packaging/requirements.txt

# A list of all that is in a package, with licences and what needs what, for those who have to know (CycloneDX).
sbom: $(VENV)/.installed-dist
	rm -rf $(VENV)-locked && $(PYTHON) -m venv $(VENV)-locked
	$(VENV)-locked/bin/python -m pip install --quiet --require-hashes --requirement packaging/requirements.txt
	$(VENV)-locked/bin/python -m pip uninstall --quiet --yes pip setuptools
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file dist/sbom.json \
		$(VENV)-locked

# For the Debian that this runs on: packaging/deb/build.
deb:
	packaging/deb/build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps 'aioxmpp>=0.13' # pyproject.toml says why alone
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dist: $(VENV)/bin/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --editable '.[dist]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/bin/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-site: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet 'mkdocs>=1.6,<2' 'pymdown-extensions>=10'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-locked build dist *.egg-info
