# make run    makes .venv, installs, fetches the model and executes every notebook; pages in build/
# make test   makes .venv and runs the whole suite; TESTS='-n 2 --dist worksteal' does so in two processes
# make exercises  writes the notebooks for a class, with and without solutions, into build/exercises
# make handout    packs kit, class's notebooks and the finished run into build/sempa-kit.zip
# make progress HANDED_IN=folder  tells what a class has solved
# make wheelhouse fills build/wheelhouse; make run WHEELS=folder installs from there, without a network
# make lab SLIM=yes  installs without harnesses and test tools; enough for notebooks 01 to 04
# make address    writes the kit's address and links to Colab and Kaggle into notebooks and README
# make classroom  tries an environment like Colab's, a wheel, and JupyterLab in Chromium; installs some GB
# make site   builds one site of notebooks, findings, teacher's and API pages, to read without a network, in build/site
# make bench  times training, embedding and generation, and how cost grows; RECORD=yes keeps it in results/
# make faults  attacks what the kit promises: bad input, kills, full disks, a crowd, the same bytes; FAULTS=--soak for long
# make docs, report, notebooks, lint, lab, clean: see below
PYTHON ?= python3
PROFILE ?= cpu
# As in sempa_utils/__init__.py, for what loads torch before it.
export OMP_WAIT_POLICY ?= passive
MODEL ?= packaged

BIN = .venv/bin
# One install for every target: what is pinned, the kit itself, harnesses and test tools; SLIM=yes without these two.
SLIM ?=
INSTALLED = .venv/$(if $(SLIM),slim,installed)
WHEELS ?=
ifneq ($(WHEELS),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif

run: $(INSTALLED)
	@echo "== fetching the model (once)"
	@$(BIN)/python -m sempa_utils fetch --model $(MODEL)
	@echo "== running the notebooks"
	@$(BIN)/python notebooks/run.py --profile $(PROFILE) --model $(MODEL)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS)

faults: $(INSTALLED)
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults $(FAULTS)

notebooks: $(INSTALLED)
	@$(BIN)/python notebooks/run.py --profile $(PROFILE) --model $(MODEL) --publish

exercises: $(INSTALLED)
	@$(BIN)/python notebooks/exercises.py $(if $(STUDENTS),--students '$(STUDENTS)')

handout: exercises
	@$(BIN)/python notebooks/handout.py

progress: $(INSTALLED)
	@$(BIN)/python notebooks/progress.py '$(HANDED_IN)'

wheelhouse: $(INSTALLED)
	@$(BIN)/python notebooks/wheelhouse.py $(if $(SLIM),--slim)

address: $(INSTALLED)
	@$(BIN)/python notebooks/address.py

classroom: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[classroom]'
	$(BIN)/python -m pytest $(CLASSROOM)

docs: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[docs]'
	@$(BIN)/python -m pdoc -o build/docs sempa_utils && echo "build/docs/index.html"

site: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[docs,site]'
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c site -d build/site-cache . build/site
	@$(BIN)/python -m pdoc -o build/site/api sempa_utils && echo "build/site/index.html"

bench: $(INSTALLED)
	@$(BIN)/python benchmarks/training.py --triplets 8 --others all $(if $(RECORD),--record bench_training_cpu)
	@$(BIN)/python benchmarks/embedding.py --pairs 10 $(if $(RECORD),--record bench_embedding_cpu)
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
	@start=$$(date +%s); $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.$(if $(SLIM),,[test,evaluation])' \
		&& echo "== installed in $$(( $$(date +%s) - start )) s"
	@touch $@

# Options for it, such as FAULTS=--soak or FAULTS='--only kill --kills 100'.
FAULTS ?=
# Options of pytest.
TESTS ?=
# Which parts of the classroom, and for the other two: a list of names, a folder.
CLASSROOM ?= tests/classroom/colab.py tests/classroom/wheel.py tests/classroom/jupyter.py
STUDENTS ?=
HANDED_IN ?= handed-in

.PHONY: run test faults notebooks exercises handout progress wheelhouse address classroom docs site bench report lint lab clean
