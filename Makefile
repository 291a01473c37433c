# make demo    a fresh machine to a compressed, reloaded, generating model
# make test    all tests          make check   ruff, mypy --strict, layers
# make cases   the fault reports of CASES, and whether each is answered rightly
# make test-zeroshot              what needs lm-eval, which is installed beside the rest for it
# make test-quant                 what needs torchao, in the same way
# make test-exhaustive            every case of the tests whose cases take long
# make bench   the benchmarks that need this checkout alone; bench-data and bench-engines: the others
# make table5 SMOLLM2=FOLDER      Table 5 of GAC-v2 on SmolLM2-135M, kept in WORK; table5-full: all of it
# make test-long                  100,000 random planning problems, ten minutes on two cores
PYTHON ?= python3
VENV ?= .venv
# Where torch comes from: the URL of a PyTorch package index (CPU or CUDA); empty takes the default.
TORCH_INDEX ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# In the order of the folders: files of few long tests would else come last, one process idle.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder
LONG_PROBLEMS ?= 100000
LONG_SEED ?= 0

CASES ?= ../shared/cases
DATA ?= ../shared/data
SMOLLM2 ?=
WORK ?= .work/paper

.PHONY: demo test cases test-zeroshot test-quant test-long check format goldens bench bench-data \
  bench-engines table5 table5-full papers pages clean

demo: $(INSTALLED)
	$(BIN)/gacfx demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

cases: $(INSTALLED)
	@test -d $(CASES) || { echo "there are no cases in $(CASES)"; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.cases $(CASES)

# lm-eval brings fifty packages, half a GiB: too much for every checkout.
test-zeroshot: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable '.[dev,zeroshot]'
	$(BIN)/python -m pytest tests/unit/zeroshot

test-quant: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable '.[dev,quant]'
	$(BIN)/python -m pytest tests/unit/compose

test-exhaustive: $(INSTALLED)
	EXHAUSTIVE=1 $(BIN)/python -m pytest -m exhaustive $(PYTEST_ARGS)

test-long: $(INSTALLED)
	LONG_PROBLEMS=$(LONG_PROBLEMS) LONG_SEED=$(LONG_SEED) \
	  $(BIN)/python -m pytest tests/long --numprocesses auto

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

goldens: $(INSTALLED)
	GOLDEN=write $(BIN)/python -m pytest tests/golden

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.two_budgets
	$(BIN)/python -m benchmarks.frontier
	$(BIN)/python -m benchmarks.replanning
	$(BIN)/python -m benchmarks.compiling
	$(BIN)/python -m benchmarks.inspection

# Trained models and texts, which are not in the checkout.
bench-data: $(INSTALLED)
	$(BIN)/python -m benchmarks.quality --data $(DATA)
	$(BIN)/python -m benchmarks.pruning --data $(DATA)
	$(BIN)/python -m benchmarks.equal_bytes --data $(DATA)
	$(BIN)/python -m benchmarks.activation_budget --data $(DATA)
	$(BIN)/python -m benchmarks.prevalence --data $(DATA)

# Exported models in every engine: OpenVINO is installed beside the rest for it.
bench-engines: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable '.[dev,openvino]'
	$(BIN)/python -m benchmarks.exports
	$(BIN)/python -m benchmarks.latency

# About 90 minutes of two idle cores, by arithmetic; what WORK has is not done again. Scores need
# lm-eval.
table5: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable '.[dev,zeroshot]'
	$(BIN)/python -m benchmarks.paper.table5 --data $(DATA) --smollm2 "$(SMOLLM2)" --work $(WORK)

# All items, ASVD by its table of losses, three seeds: about half a day, by arithmetic.
table5-full: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable '.[dev,zeroshot]'
	$(BIN)/python -m benchmarks.paper.table5 --data $(DATA) --smollm2 "$(SMOLLM2)" --work $(WORK) \
	  --full

# The solver's table needs no weights; the page has what was run.
papers: $(INSTALLED)
	$(BIN)/python -m benchmarks.paper.solver
	$(BIN)/python -m benchmarks.paper.pages

pages: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu.summarise
	$(BIN)/python -m benchmarks.paper.pages

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt  # an installed torch is kept
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
