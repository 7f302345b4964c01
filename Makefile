# Two commands: `make demo` and `make test`. Each sets up its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup test demo lint benchmark device coverage random-models metanetwork universal wheel-check docs notebooks clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

test: setup lint
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .

demo: setup
	$(BIN)/tfmetaprune demo

benchmark: setup
	$(BIN)/python benchmarks/metanet.py --out docs/metanet_speed.md
	$(BIN)/python benchmarks/encoding.py
	$(BIN)/python benchmarks/meta_step.py

device: setup
	$(BIN)/python benchmarks/device.py --out docs/device.md

coverage: setup
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python benchmarks/coverage.py

random-models: setup
	TF_CPP_MIN_LOG_LEVEL=3 TFMETAPRUNE_RANDOM_MODELS=1000 $(BIN)/python -m pytest tests/test_random_models.py

metanetwork: setup
	$(BIN)/tfmetaprune meta-train --out runs/digits --resume

universal: setup
	$(BIN)/python -m pip install --quiet --editable '.[data]'
	$(BIN)/tfmetaprune zoo make runs/universal/zoo --data digits,ucr/JapaneseVowels_eq,ucr/OSULeaf --seeds 16 --held-out 2
	$(BIN)/tfmetaprune meta-train --zoo runs/universal/zoo --out runs/universal --steps 12000 --fisher-weight 1 --perturbation 0.05 \
	    --num-validation 12 --validate-every 1000 --patience 0 --resume

notebooks: setup
	$(BIN)/python notebooks/execute.py

docs: setup
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

wheel-check:
	$(PYTHON) release/wheel_check.py

clean:
	rm -rf $(VENV) build dist *.egg-info
