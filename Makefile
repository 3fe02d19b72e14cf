# `make demo` and `make test` are all the set-up there is: both make .venv and install into it when something changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

# What asks most of Python, JAX and SeqIO, in minutes: for a second environment, see .ci/run.
QUICK := losses decoding step memory index negatives configuration bindings source verifier feature_converter

# What one test has compiled, the programs that others start need not compile again.
test test-quick test-slow demo-small: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/$(VENV)/compiled
test test-quick test-slow demo-small: export JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS := 0.1

.PHONY: install demo demo-small test test-quick test-slow lint format types vocabulary clean

install: $(STAMP)

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

# The main job on embedded data: three agents, source and target accuracy, runs/demo/report.html.
demo: install
	$(BIN)/cd_jax demo --model_dir=runs/demo

# The same, so short that nothing is learnt: does every stage run?
demo-small: install
	rm -rf runs/demo-small
	$(BIN)/cd_jax demo --model_dir=runs/demo-small --gin.TRAIN_STEPS=20 --gin.WARMUP_STEPS=5 --gin.EVAL_PERIOD=10 --gin.train.log_period=10 \
	  --gin.train.eval_per_task=4 --gin.EVAL_PER_TASK=4 --gin.SOURCE_PER_TASK=4

# In two processes, each with whole files: most of the time goes into compiling, which uses one core. By name, since those
# with the most tests are not those that take longest.
test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-quick: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(QUICK:%=tests/*/test_%.py)

# Minutes rather than seconds.
test-slow: install
	$(BIN)/python -m pytest -q -m slow -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install
	$(BIN)/mypy cd_jax

# Trains the vocabulary of the embedded worlds anew, after they changed.
vocabulary: install
	$(BIN)/python -c "from cd_jax.tasks import vocabulary as v; v.EMBEDDED.write_bytes(v.train(v.embedded_texts(), 4000))"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
