# Two commands for a bare machine with Python 3.11+, make and git: `make demo` and `make test`.
#
# `make test` also drives the studio's pages in Chromium where there is one, and runs the short campaign.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= adabldm-demo
export HF_HUB_OFFLINE := 1
# Without compiled modules, which are kept at the first import, every process takes some seconds more to begin.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-studio campaign campaign-short gpu-figures lint docs dist test-wheel sbom licences audit clean

demo: $(VENV)/.installed
	$(BIN)/adabldm demo --out $(OUT)

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --ignore tests/studio --ignore tests/campaigns \
		--cov --cov-report=term:skip-covered --cov-fail-under=90
	$(MAKE) test-studio campaign-short

# The service and the studio alone, which are a part of `make test`.
test-studio: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/studio

# The campaign breaks files and kills processes at random. Its short form is a part of `make test`; the long one runs
# now and then, with the clusters of several nodes and the fits of several processes, which take minutes.
campaign-short: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/campaigns --ignore tests/campaigns/test_ray.py \
		--ignore tests/campaigns/test_fit_together.py

campaign: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 ADABLDM_CAMPAIGN=full $(BIN)/python -m pytest -s tests/campaigns

# Figures of a GPU in one go: Stable Diffusion size, and `generate` of a shipped run from disk to disk.
gpu-figures: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/sd15_speed.py --device cuda
	$(BIN)/python benchmarks/throughput.py --profile --device cuda --count 400
	$(BIN)/python benchmarks/throughput.py --workers 1 2 --device cuda --count 400

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the documentation is in site/index.html"

# Wheel and source distribution, checked; both hold the weights and a licence for each.
dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# The test suite against the installed wheel, in a fresh environment.
test-wheel: dist
	rm -rf .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[dev]"
	OMP_NUM_THREADS=1 .venv-wheel/bin/python -m pytest -n 2 --ignore tests/studio --ignore tests/campaigns

# Software bill of materials (CycloneDX) of the versions that the project is tested with.
sbom: $(VENV)/.installed-dev
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements constraints.txt --output-file dist/sbom.json
	@echo "the bill of materials is in dist/sbom.json"

licences: $(VENV)/.installed-dev
	$(BIN)/python tools/licences.py > docs/reference/licences.md

# Known vulnerabilities of the locked versions; needs the network.
audit: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[studio]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-wheel dist build $(OUT) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
