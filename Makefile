# Everything runs in .venv, which is made from requirements.lock and remade when that changes.

BIN := .venv/bin
READY := .venv/.ready
# The systems that pyproject.toml names under [tool.uv]; the lock need not say it in every line.
EVERYWHERE := (sys_platform == 'darwin' or sys_platform == 'linux')

UV := .matrix/uv/bin/uv
LOWEST := .matrix/lowest
MATRIX := tests/engine tests/ui tests/session tests/test_exactness.py tests/test_panda.py tests/test_timeline.py
SAMPLE := tests/engine/test_internals.py tests/ui/test_dashboard.py tests/test_exactness.py

# Makes an environment FOLDER with the REQUIREMENTS; what they do not need, such as pytest, it has from .venv.
environment = $(BIN)/python -m venv --clear --without-pip $(1) && \
	$(BIN)/python -c "import sysconfig; path = sysconfig.get_path('purelib'); \
		print(f'import site; site.addsitedir({path!r})')" \
		> $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/locked.pth && \
	$(UV) pip install --quiet --python $(1)/bin/python $(2)

.DEFAULT_GOAL := help
.PHONY: help lab app test test-lowest test-matrix faults bench check size lock wheel clean chromium

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: $(READY) ## open the first notebook in JupyterLab
	@$(BIN)/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=. --log-level=WARN \
		--LabApp.default_url=/lab/tree/notebooks/01_panda.ipynb \
		--MappingKernelManager.buffer_offline_messages=False \
		$(if $(filter 0,$(shell id -u)),--allow-root)

# Who opens the page must have the token that it prints; THEME=dark for the dark one.
app: $(READY) ## serve the first notebook as an app, its code hidden
	@$(BIN)/python -m voila notebooks/01_panda.ipynb --Voila.ip=127.0.0.1 --Voila.auto_token=True \
		--MappingKernelManager.buffer_offline_messages=False $(if $(THEME),--theme=$(THEME))

test: $(READY) chromium ## run the tests, those in the browser included
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test-lowest: $(LOWEST)/.ready ## try a sample on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest --quiet --numprocesses 2 $(SAMPLE)

# Engine and widgets on the lowest versions and on those of the lock; then the sliders on older ipykernels.
test-matrix: $(READY) $(UV) $(LOWEST)/.ready chromium ## try the lowest versions, and older ipykernels
	@status=0; for python in $(LOWEST)/bin/python $(BIN)/python; do \
		$$python -m pytest --quiet --numprocesses 2 --dist loadscope $(MATRIX) || status=1; \
	done; \
	for version in 6 7.3 locked; do \
		export BABYSIT_KERNEL="$$PWD/$(BIN)/python"; \
		if [ $$version != locked ]; then \
			there=.matrix/ipykernel-$$version; export BABYSIT_KERNEL="$$PWD/$$there/bin/python"; \
			grep -v '^ipykernel==' requirements.lock > .matrix/constraints.txt && \
			$(call environment,$$there,--constraint .matrix/constraints.txt "ipykernel==$$version.*") || \
				{ status=1; continue; }; \
		fi; \
		$$BABYSIT_KERNEL -c "import ipykernel; print('ipykernel', ipykernel.__version__)"; \
		$(BIN)/python -m pytest --quiet tests/browser \
			-k "while_another_cell_runs or slider_moved_by_keyboard or interpreter" || status=1; \
	done; exit $$status

faults: $(READY) ## run all crashes and bad disks, of which the tests run a sample
	BABYSIT_FAULTS=all $(BIN)/python -m pytest tests/faults --numprocesses 2

bench: $(READY) ## measure the speed beside Model.fit
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock "ray[tune]"
	$(BIN)/python -m tests.benchmarks

check: $(READY) ## check format, lint, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

size: $(READY) ## count the lines of code, by folder
	@$(BIN)/python tests/size.py

# What the lock already pins stays where it may; `make lock RENEW=--upgrade` renews everything.
lock: $(UV) ## pin what pyproject.toml asks for in requirements.lock
	@$(UV) pip compile pyproject.toml --quiet $(RENEW) --universal --python-version 3.11 \
		--all-extras --fork-strategy fewest --no-annotate \
		--custom-compile-command 'make lock' --output-file requirements.lock && \
	sed -e "s/python_full_version < '3.14' and //" -e "s/ and $(EVERYWHERE)//" \
		-e "s/ ; $(EVERYWHERE)//" requirements.lock > .matrix/lock && \
	cp .matrix/lock requirements.lock

clean: ## remove .venv and all that can be made again; runs stay
	rm -rf .venv .matrix .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info \
		tests/browser/screenshots
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# The first Python that runs: a name may be there and only say that its version is not.
$(READY): requirements.lock pyproject.toml
	@fits='import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; \
	$(BIN)/python -c "$$fits" 2>/dev/null || { \
		for python in python3.13 python3.12 python3.11 python3 none; do \
			$$python -c "$$fits" 2>/dev/null && break; \
		done; \
		if [ $$python = none ]; then \
			echo "babysit needs Python 3.11, 3.12 or 3.13 with its venv module: install one" \
				"(on Debian: apt-get install python3 python3-venv), then run make again." >&2; \
			exit 1; \
		fi; \
		echo "Making .venv with $$($$python --version); the first time takes some minutes."; \
		$$python -m venv --clear .venv; \
	}
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@# Else JupyterLab greets with a question about news and looks for updates.
	@$(BIN)/jupyter labextension disable --level=sys_prefix --log-level=ERROR \
		@jupyterlab/apputils-extension:announcements
	@touch $@

# Quicker than pip with what is large.
$(UV): | $(READY)
	@$(BIN)/python -m venv --clear .matrix/uv && .matrix/uv/bin/pip install --quiet --disable-pip-version-check uv

# With Python 3.11 or 3.12, as TensorFlow 2.19 has no wheels for 3.13; pandas 3, which only tests need, has no NumPy 2.0.
$(LOWEST)/.ready: $(READY) $(UV)
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info >= (3, 13))" || { \
		echo "TensorFlow 2.19 has no wheels for Python 3.13: make .venv with 3.11 or 3.12 for this." >&2; exit 1; }
	@echo "Making $(LOWEST) with the lowest versions; the first time takes some minutes."
	@$(call environment,$(LOWEST),$(shell sed -n '/^dependencies/,/^]/s/^ *"\(.*\)>=\(.*\)",/\1==\2/p' pyproject.toml) \
		"pandas<3")
	@touch $@

wheel: $(READY) ## build the wheel, for Colab or another environment
	rm -rf build && $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

# The browser tests drive the system's Chromium; without one they are skipped, and fail in CI.
chromium:
	@for browser in chromium chromium-browser google-chrome; do \
		command -v $$browser >/dev/null && exit; \
	done; \
	command -v apt-get >/dev/null || exit 0; \
	apt="env DEBIAN_FRONTEND=noninteractive apt-get -qq"; \
	[ "$$(id -u)" = 0 ] || apt="sudo -n $$apt"; \
	{ $$apt update && $$apt -y install chromium fonts-dejavu-core; } || \
	echo "Chromium could not be installed here: install it by hand for the browser tests."
