# Everything a newcomer needs. `make check` and `make test` are what CI runs, nothing less.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := src tests bench docs deploy

.PHONY: help demo test check chaos conformance e2e-deploy e2e-stack bench bench-agents eval eval-peers eval-bfcl docs format lock clean site links e2e-phoenix soak secrets audit
help:
	@echo "make demo    a real task, from nothing to a reviewed branch, with the embedded model"
	@echo "make check   format, lint, types, imports"
	@echo "make test    the whole suite"
	@echo "make chaos   100 kills of workers over six-agent tasks"
	@echo "make secrets  every tracked file is looked through for credentials"
	@echo "make audit   known vulnerabilities of what the locks pin (asks PyPI's advisory service)"
	@echo "make soak    two hours of everything at once with kills at random (SOAK_MINUTES=120)"
	@echo "make conformance  the official MCP suite through the gateway, and its OAuth scenarios for clients (needs npm)"
	@echo "make e2e-deploy  releases and rollouts on real engines, in network namespaces (needs root; says what is missing)"
	@echo "make e2e-phoenix  a task's spans at a real Phoenix server, in an environment of its own (900 MB)"
	@echo "make e2e-stack   deploy/compose.yaml on a real engine, a task through its services (part of e2e-deploy)"
	@echo "make bench   measured figures, written to docs/benchmarks.md by hand"
	@echo "make eval    an evaluation set over the six agents, against the configured model"
	@echo "make eval-peers  the same twenty small bugs for ours and for mini-swe-agent"
	@echo "make eval-bfcl   all 200 multi-turn cases of the BFCL through the gateway"
	@echo "make bench-agents  what a step of an agent costs: ours, LangGraph, openai-agents, OpenHands"
	@echo "make docs    the generated reference pages"
	@echo "make site    the documentation as a site, in build/site"
	@echo "make links   every address outside that the documentation names is asked (needs the internet)"

# A stamp per lock file: the environment is rebuilt when the lock changes, and only then.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Dev-Tools needs Python 3.11 or newer." if sys.version_info < (3, 11) else 0)'
	@echo "  building the environment in $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Where Python may write no bytecode, each of the hundreds of processes of the tests would compile all of this anew.
	@$(BIN)/python -m compileall -q src
	@touch $@

# pydantic-evals pins an older pydantic-ai than ours and needs none of it for `make eval`: it comes without dependencies.
$(VENV)/.dev: requirements/dev.txt requirements/eval.txt $(VENV)/.runtime
	@echo "  adding the development tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/eval.txt
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/dev-tools model pull
	@$(BIN)/dev-tools demo

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=src $(BIN)/lint-imports

# Three files at a time, most of which wait for processes; then, one by one, those that measure. Without the soak, which
# takes as long as one likes: `make soak`.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m alone --ignore tests/e2e/test_soak.py $(PYTEST_ARGS)

secrets: $(VENV)/.dev
	$(BIN)/python .ci/find-secrets

# In an environment of its own: what looks at our pins does not choose them.
$(VENV)-audit/.done: requirements/audit.txt
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@touch $@

audit: $(VENV)-audit/.done
	$(VENV)-audit/bin/pip-audit --disable-pip --require-hashes -r requirements/runtime.txt -r requirements/image.txt -r requirements/dev.txt

chaos: $(VENV)/.dev
	CHAOS_KILLS=100 $(BIN)/python -m pytest -s tests/e2e/test_chaos.py

SOAK_MINUTES ?= 120
soak: $(VENV)/.dev
	SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest -s tests/e2e/test_soak.py

conformance: $(VENV)/.dev
	$(BIN)/python tests/gateway/conformance.py
	$(BIN)/python tests/gateway/conformance_client.py

bench: $(VENV)/.dev
	$(BIN)/python bench/small_tasks.py
	$(BIN)/python bench/state.py

# Needs root on Debian 12 and what .ci/install-docker installs; says what is missing.
$(VENV)/.deploy-test: requirements/deploy-test.txt $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/deploy-test.txt
	@touch $@

# Debian 13's engine beside the installed one: one of the two droplets runs on it.
build/second-engine/.done: tests/e2e_deploy/second_engine.sh
	@PYTHON=$(BIN)/python $< $(@D)
	@touch $@

e2e-deploy: $(VENV)/.deploy-test build/second-engine/.done
	E2E_DEPLOY=1 $(BIN)/python -m pytest tests/e2e_deploy $(PYTEST_ARGS)

e2e-stack: $(VENV)/.deploy-test build/second-engine/.done
	E2E_DEPLOY=1 $(BIN)/python -m pytest tests/e2e_deploy/test_7_stack.py $(PYTEST_ARGS)

# Phoenix brings 140 packages and a licence that is not ours: an environment of its own, from its own lock file.
$(VENV)-phoenix/.done: requirements/phoenix.txt
	@$(PYTHON) -m venv $(VENV)-phoenix
	@$(VENV)-phoenix/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/phoenix.txt
	@touch $@

e2e-phoenix: $(VENV)/.dev $(VENV)-phoenix/.done
	E2E_PHOENIX_PYTHON=$(abspath $(VENV)-phoenix/bin/python) $(BIN)/python -m pytest -s tests/e2e_phoenix $(PYTEST_ARGS)

eval: $(VENV)/.dev
	$(BIN)/python bench/evaluate.py $(EVAL_ARGS)

build/peers/.complete: $(VENV)/.dev
	@$(PYTHON) -m venv build/peers
	@build/peers/bin/python -m pip install --quiet --disable-pip-version-check mini-swe-agent==2.4.6 pytest \
		langgraph==1.2.24 langchain langchain-openai langgraph-checkpoint-postgres 'psycopg[binary,pool]' openai-agents==0.24.0
	@touch $@

eval-peers: build/peers/.complete
	$(BIN)/python bench/eval_peers.py --peers build/peers/bin/python $(EVAL_PEERS_ARGS)

eval-bfcl: $(VENV)/.dev
	EVAL_BFCL=1 $(BIN)/python -m pytest tests/gateway/test_bfcl.py $(PYTEST_ARGS)

# OpenHands' SDK needs Python 3.12: an environment of its own, where there is one.
build/openhands/.complete:
	@mkdir -p build/openhands
	@if command -v python3.12 >/dev/null; then python3.12 -m venv build/openhands \
		&& build/openhands/bin/python -m pip install --quiet --disable-pip-version-check openhands-sdk==1.58.2; \
		else echo "no python3.12: OpenHands is left out" >&2; fi
	@touch $@

bench-agents: build/peers/.complete build/openhands/.complete
	$(BIN)/python bench/agents.py --peers build/peers/bin/python \
		$(addprefix --openhands ,$(wildcard build/openhands/bin/python)) $(BENCH_ARGS)

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

site: docs
	$(BIN)/mkdocs build --quiet --strict

links: $(VENV)/.dev
	$(BIN)/python docs/check_links.py

format: $(VENV)/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --extra local --extra dense --extra qdrant --extra analyzers --extra build -o requirements/runtime.txt pyproject.toml
	$(BIN)/pip-compile -q --extra local --extra dense --extra qdrant --extra analyzers --extra build --extra deploy --extra docs --extra dev -o requirements/dev.txt pyproject.toml
	@# The image gets the versions that are tested: pip-compile keeps the pins it finds, and drops what no extra asks for.
	cp requirements/runtime.txt requirements/image.txt
	$(BIN)/pip-compile -q --extra qdrant --extra analyzers -o requirements/image.txt pyproject.toml
	$(BIN)/pip-compile -q -o requirements/deploy-test.txt requirements/deploy-test.in
	$(BIN)/pip-compile -q -o requirements/phoenix.txt requirements/phoenix.in
	$(BIN)/pip-compile -q -o requirements/audit.txt requirements/audit.in

clean:
	rm -rf $(VENV) $(VENV)-phoenix $(VENV)-audit .pytest_cache .ruff_cache
