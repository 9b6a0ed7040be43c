# Each target suffices on a fresh machine with Python >= 3.10; the first to run makes .venv.
#
#   PYTHON           the Python that .venv is made from
#   TORCH_INDEX_URL  where torch comes from, if not from PyPI (whose builds are for CUDA)
#   COMFYUI_PATH     a ComfyUI to use instead of a downloaded one
#   COMFYUI_VERSION  which one is downloaded: 0.30.0 (the default) or 0.3.75
#   COMFYUI_PAGE     another comfyui-frontend-package than that ComfyUI asks for: 1.58.1
#   ARGS             more arguments for the command: make test ARGS="-k mask"
#   WORKERS          how many processes run tests: 2 (the default), 0 for none beside the first
#   SETS             which versions of other packages, for make test-installs: SETS="oldest newest"
#   CASES            how many, for make benchmark: CASES="--single 200 --multi 200"

PYTHON ?= python3
WORKERS ?= 2
READY := .venv/ready
SLOW := tests/comfyui tests/browser tests/install tests/benchmark/test_pages.py
RUN := .venv/bin/python
PYTEST := $(RUN) -m pytest -q -n $(WORKERS) --dist loadfile

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export SETS

.PHONY: test test-fast test-installs soak audit demo lint bench mini benchmark

test: $(READY)
	$(PYTEST) --durations=10 $(ARGS)

# What needs no ComfyUI, no browser and no installation.
test-fast: $(READY)
	$(PYTEST) --durations=15 $(addprefix --ignore=,$(SLOW)) $(ARGS)

test-installs: $(READY)
	$(RUN) -m pytest -q -m installs -rP tests/install/test_sets.py $(ARGS)

# Known holes in the packages that tests and tools run on, as PyPI lists them.
audit: $(READY)
	$(PYTHON) -m venv .venv/audit && .venv/audit/bin/python -m pip install -q pip-audit
	.venv/audit/bin/pip-audit --strict --path $$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Hundreds of edits on real servers, some of which are killed.
soak: $(READY)
	$(RUN) -m pytest -q -m soak -rP $(ARGS)

demo: $(READY)
	$(RUN) -m tools.demo $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy flexedit
	.venv/bin/lint-imports --no-logo --cache-dir .cache/imports
	$(RUN) -m pytest -q tests/test_links.py
	@if command -v npm > /dev/null \
	  && node -e 'let [a, b] = process.versions.node.split("."); process.exit(+(20.19 > a + "." + b))' \
	  && { npm ls > /dev/null 2>&1 || npm install --no-audit --no-fund --no-package-lock --silent; }; \
	then npm run --silent lint; \
	else echo "web/ is not checked: that needs npm, Node 20.19 or newer and npm's registry."; fi

benchmark: $(READY)
	$(RUN) -m flexedit bench build --out out/benchmark/cases $(CASES)
	$(RUN) -m flexedit bench run out/benchmark/cases --out out/benchmark $(ARGS)

bench: $(READY)
	$(RUN) -m tools.speed $(ARGS)

mini: $(READY)
	$(RUN) -m flexedit train mini --out runs/mini $(ARGS)
	mkdir -p flexedit/pretrained && cp -r runs/mini/flexedit-mini flexedit/pretrained/

# Torch goes first: its index may differ, and what follows must take the pinned build as it is.
$(READY): requirements.txt requirements-dev.txt tools/comfyui/cpu_torch.py
	@echo "Making .venv: 3 GB of packages, which took 4 minutes when it was last tried from nothing;"
	@echo "several GB more without TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu."
	$(PYTHON) -m venv .venv
	@echo "1 of 2: PyTorch …"
	$(RUN) -m pip install -q $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) \
	  $$(grep -E '^torch(vision)?==' requirements-dev.txt)
	@echo "2 of 2: everything else …"
	$(RUN) -m pip install -q -r requirements-dev.txt
	packages=$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  cp tools/comfyui/cpu_torch.py "$$packages" && \
	  echo 'import cpu_torch; cpu_torch.install()' > "$$packages/cpu_torch.pth"
	touch $@
