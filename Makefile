# Every command of the house. On a bare machine `make demo` and `make test` are the only two to know: the first installs
# what stemline runs on, the second what tests use as well. Both cost nothing when nothing changed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Images often set it; every process would then compile all that it imports anew, two thirds of its start.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
OUT ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z%-]*:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: ## what stemline runs on: uv if missing, .venv, exactly requirements.lock, the project editable
	@.ci/sync runtime

extras: ## the same, and what services on other machines and ONNX files ask for (requirements-extras.lock)
	@.ci/sync extras

sync: ## all that, what tests and checks use (requirements-dev.lock), and the programs that tests start
	@.ci/sync dev

demo: install ## the whole road on a laptop, with synthetic songs, in minutes
	@$(BIN)/stemline demo

# Several processes, as much of a test is waiting. tests/scheduling.py says which runs what, and that of these five two
# start Ray and three do not: they go on for minutes after the others, and two of them leave a sixth of two cores idle.
SHARED := --dist loadfile --no-loadscope-reorder

test: sync ## all tests; what continuous integration runs
	@$(BIN)/python -m pytest -q --durations=10 -n 5 $(SHARED)

quick: sync ## the tests that take seconds, while working
	@$(BIN)/python -m pytest -q -n 2 $(SHARED) -m "not ray and not gpu and not slow and not browser"

lint: sync ## ruff check, ruff format --check, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: sync ## the documentation, as a site in build/docs; warnings are errors
	@$(BIN)/python -m sphinx -W --keep-going -q -a -b html -d build/doctrees docs build/docs

man: sync ## infra/man/stemline.1, the manual page, from the command line
	@$(BIN)/python docs/_ext/stemline_man.py

bench-%: sync ## one benchmark, such as bench-road; OUT=FILE.json writes its rows; bench-gate takes SCORES=FILE.csv, bench-remix and bench-curation SONGS=FOLDER
	@$(BIN)/python -m tests.benchmarks.$* $(if $(OUT),--out $(OUT)) $(if $(SCORES),--scores $(SCORES)) $(if $(SONGS),--songs $(SONGS))

drill-%: sync ## one drill, such as drill-road: kill -9 at every stage, then finish; drill-cluster takes OUT=FILE.json
	@$(BIN)/python -m tests.drills.drill_$* $(if $(OUT),--out $(OUT))

stack: sync ## the whole road through a deployment, on every service of a cluster, on loopback; OUT=FILE.json; APART=1: nodes share no disk
	@$(BIN)/python -m tests.drills.stack $(if $(OUT),--out $(OUT)) $(if $(APART),--apart)

containers: sync ## the image and infra/compose.yaml built and run by Podman, as root; STAGE="image refusals run", OUT=FILE.json
	@$(BIN)/python -m tests.drills.containers $(STAGE) $(if $(OUT),--out $(OUT))

soak: sync ## RUNS scheduled retrainings in a row, by default 100, and what grows meanwhile
	@$(BIN)/python -m tests.drills.soak --runs $(or $(RUNS),100) $(if $(OUT),--out $(OUT))

cases: sync ## every case of ../shared/cases beside the checkout, or CASES="one another": what was seen, what is right
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.drills.cases $(CASES)

mutants: sync ## mutants of a core MODULE=models/scores/metrics.py that no test notices; SEED=0, COUNT=16
	@$(BIN)/python -m tests.drills.mutants $(MODULE) --seed $(or $(SEED),0) --count $(or $(COUNT),16)

audit: ## known vulnerabilities of what the locks name: fails from a severity on (.ci/audit.toml); 3 is "not scanned"
	@.ci/audit || { code=$$?; [ $$code = 3 ] || exit $$code; }

lock: install ## resolve pyproject.toml anew into the three locks; UPGRADE=1 takes the newest of everything
	@.ci/sync lock

.PHONY: help install extras sync demo test quick lint docs man cases stack containers soak mutants audit lock
