# The front door: each target says after ## what it does, and `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What a person may set: make up INVENTORY=inventories/mine
INVENTORY ?= inventories/local
PYTHON ?= /usr/bin/python3
VENV ?= $(CURDIR)/.venv
NODE ?=
UNIT ?=
LINES ?= 100
FOLLOW ?=
COMMAND ?=
BENCH ?=
CHECK ?=
FEATURES ?=
RELEASE ?=
SECRET ?=
ALL ?=
MOVE ?=
REBUILD ?=
BACKUP ?=
TESTS ?=
WORKERS ?= 3
PROVIDER ?= libvirt
SUITE ?= trixie

# Ansible ignores an ansible.cfg in a folder that others may write to, unless it is named.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(VENV)/bin:$(PATH)
export PYTHON VENV V NODE UNIT COMMAND SUITE

# Ansible, pip and make cannot be trusted with one.
ifneq ($(words $(CURDIR)),1)
$(error The path of this folder, $(CURDIR), has a space in it. Move it to a path without one)
endif

ifneq ($(words $(INVENTORY)),1)
$(error INVENTORY=$(INVENTORY) must be one path without a space: ssh and Ansible do not take one. Rename the folder)
endif

# Ansible does not start in a locale that is not UTF-8, or that is not installed.
ifneq ($(shell locale charmap 2>/dev/null),UTF-8)
export LC_ALL := C.UTF-8
endif

RUN := $(VENV)/bin/python -B
CLI = $(RUN) -m cli $@ --inventory $(INVENTORY)
STAGES := $(RUN) -m scripts.stages
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)
# Role local_node builds images of Debian in its module_utils; the Vagrant box is built from such an image.
NSPAWN := PYTHONPATH=roles/local_node/module_utils$${PYTHONPATH:+:$$PYTHONPATH}

.PHONY: help setup up stop down status diagnose logs ssh url ca deploy rollback upgrade rotate renew-authority reboot remove replace move-database rebuild backup restore
.PHONY: lint-ansible lint-types lint-types-of-app lint-preflight lint-yaml lint-imports lint-python lint-shell unit-app unit-deployment
.PHONY: test test-fast test-all lint unit mutation integration integration-slow molecule test-side-effects test-faults test-cluster audit vagrant-test box docs requirements bench bench-app bench-rebuild bench-provision

##@ Run the service on this computer
up: ## Create the two nodes, set them up and record one timestamp; run it again to apply changes
	@started=$$(date +%s.%N); STEPS=5 bash scripts/setup.sh up; $(CLI) --started $$started

status: | $(VENV)/.stamp ## One line for each unit of every node, and one for a timestamp end to end (it is recorded)
	@$(CLI)

diagnose: | $(VENV)/.stamp ## Check everything, and say how to fix each failure (it records one timestamp)
	@$(CLI)

logs: | $(VENV)/.stamp ## Logs of the nodes: NODE=web UNIT=timestamp-command LINES=100 FOLLOW=1
	@$(CLI) --node "$$NODE" --unit "$$UNIT" --lines $(LINES) $(if $(FOLLOW),--follow)

ssh: | $(VENV)/.stamp ## A root shell on a node: NODE=web (COMMAND='…' runs that instead)
	@$(CLI) --node "$$NODE" --command "$$COMMAND"

url: | $(VENV)/.stamp ## The base URL (make -s url)
	@$(CLI)

ca: | $(VENV)/.stamp ## The path of the CA certificate (make -s ca)
	@$(CLI)

deploy: | $(VENV)/.stamp ## Replace the running release by this checkout's, without a failed request
	ansible-playbook -i $(INVENTORY) playbooks/deploy.yml

rollback: | $(VENV)/.stamp ## Return to the previous release (RELEASE=… to another)
	ansible-playbook -i $(INVENTORY) playbooks/rollback.yml -e rollback_release=$(RELEASE)

upgrade: | $(VENV)/.stamp ## Install Debian's updates, one node after the other, and restart what runs something older (CHECK=1: say which; FEATURES=1: raise Kafka's feature levels)
	ansible-playbook -i $(INVENTORY) playbooks/upgrade.yml $(if $(CHECK),--check) $(if $(filter 1,$(FEATURES)),-e kafka_feature_upgrade=true)

rotate: | $(VENV)/.stamp ## Change one password without a failed request: SECRET=kafka_command (any other word lists them)
	ansible-playbook -i $(INVENTORY) playbooks/rotate.yml -e secret=$(SECRET)

renew-authority: | $(VENV)/.stamp ## Replace the private CA, one step in each run (ALL=1: all steps): clients need its certificate
	ansible-playbook -i $(INVENTORY) playbooks/renew_authority.yml $(if $(filter 1,$(ALL)),-e authority_all=true)

reboot: | $(VENV)/.stamp ## Reboot the nodes that wait for it, one after the other (FORCE=1: all; NODE=web: one)
	ansible-playbook -i $(INVENTORY) playbooks/reboot.yml $(if $(filter 1,$(FORCE)),-e reboot_always=true) $(if $(NODE),-e reboot_node=$(NODE))

remove: | $(VENV)/.stamp ## Take a broker or a controller of Kafka out of the cluster for good: NODE=db4.example.com
	ansible-playbook -i $(INVENTORY) playbooks/remove.yml -e remove_node=$(NODE)

replace: | $(VENV)/.stamp ## Set up a broker or a controller of Kafka anew whose disk or machine is lost: NODE=db3.example.com
	ansible-playbook -i $(INVENTORY) playbooks/replace.yml -e replace_node=$(NODE)

# One of several; the environment may have a HOST of its own.
DATABASE = $(if $(filter command,$(origin HOST)),-e database_node=$(HOST))

move-database: | $(VENV)/.stamp ## Rebuild the database beside the one that serves, in another version of PostgreSQL or folder, and change to it (MOVE=drop: remove the old one; MOVE=cancel: give it up; of several databases, HOST=db2)
	ansible-playbook -i $(INVENTORY) playbooks/move_database.yml $(if $(CHECK),--check) $(if $(MOVE),-e database_move=$(MOVE)) $(DATABASE)

rebuild: | $(VENV)/.stamp ## Rebuild the database from the log while the service runs, and verify it (of several, HOST=db2 alone)
	ansible-playbook -i $(INVENTORY) playbooks/rebuild.yml $(DATABASE) $(REBUILD)

backup: | $(VENV)/.stamp ## Save new records of the log as files: BACKUP='-e timestamp_backup_folder=/mnt/backup'
	ansible-playbook -i $(INVENTORY) playbooks/backup.yml $(BACKUP)

restore: | $(VENV)/.stamp ## Restore a backup into a new Kafka, and rebuild the database from it
	ansible-playbook -i $(INVENTORY) playbooks/restore.yml $(BACKUP)

stop: | $(VENV)/.stamp ## Power the nodes off; `make up` boots them again with their data
	@$(CLI)

down: ## Erase the nodes with their data and secrets; asks first (FORCE=1 does not)
	@if [ -x $(VENV)/bin/ansible-playbook ] || [ -e /var/lib/timestamp-service ]; then \
	    bash scripts/setup.sh up >/dev/null; $(CLI) $(if $(filter 1,$(FORCE)),--force); \
	else echo 'There is nothing to remove.'; fi

##@ Develop
setup: ## Install what is missing: Debian packages and .venv (activate it by: . .venv/bin/activate)
	@bash scripts/setup.sh up test vagrant

# The Vagrant test uses containers, which take minutes; virtual machines can take an hour.
test: PROVIDER = lxc
test: setup ## All quick checks, with a list of the stages and of the failed tests at the end
	@$(STAGES) lint unit molecule 'vagrant-test PROVIDER=$(PROVIDER) SUITE=bookworm' integration

test-fast: setup ## The checks that need no servers
	@$(STAGES) lint unit

test-all: setup ## All of `make test`, all slow cases, faults and virtual machines (hours)
	@$(STAGES) lint unit molecule 'vagrant-test PROVIDER=lxc SUITE=bookworm' integration integration-slow \
	    'bench-app BENCH=--quick' test-docs test-side-effects test-faults test-cluster 'vagrant-test PROVIDER=libvirt'

# Each part prints its seconds; as many run at a time as there are processors.
PARTS = @$(MAKE) --no-print-directory --jobs=$$(nproc) --keep-going --output-sync=target
TIMED = @TIMEFORMAT='%3lR  $@'; time

lint: setup ## Style and types of playbooks, Python and shell scripts
	$(PARTS) lint-ansible lint-types lint-types-of-app lint-preflight lint-yaml lint-imports lint-python lint-shell

# It checks the syntax of every playbook too.
lint-ansible:
	$(TIMED) ansible-lint --offline --profile production

lint-preflight:
	$(TIMED) ansible-playbook -i inventories/production playbooks/preflight.yml --limit localhost

lint-yaml:
	$(TIMED) yamllint --strict .

lint-python:
	$(TIMED) { ruff check .; ruff format --check .; }

lint-imports:
	$(TIMED) { cd app; lint-imports --no-cache; }

lint-types-of-app:
	$(TIMED) { cd app; mypy; MYPYPATH=.:.. mypy -p bench; }

# Several runs: mypy takes no two modules of one name, such as conftest.py, or an action plugin and its module.
lint-types:
	$(TIMED) { mypy cli scripts tests roles/*/library roles/*/filter_plugins roles/kafka/module_utils roles/local_node/module_utils/nspawn_nodes; \
	    mypy roles/*/action_plugins; \
	    for folder in shared/tests shared/programs shared/side_effects faults vagrant; do mypy molecule/$$folder; done; }

lint-shell:
	$(TIMED) { git ls-files --format='%(objectmode) %(path)' | awk '/^100/ { print $$2 }' | \
	    xargs awk 'FNR == 1 && /^#!.*sh$$/ { print FILENAME } { nextfile }' | xargs shellcheck; }

unit: setup ## Tests of the application and of the deployment's Python code
	$(PARTS) --jobs=1 unit-app unit-deployment

unit-app:
	$(TIMED) pytest app/tests -m 'not integration and not browser'

unit-deployment:
	$(TIMED) pytest tests --numprocesses=2 --dist=loadfile

integration: setup ## Tests with a real Kafka and a real PostgreSQL as processes on loopback, a pair for each of WORKERS=3
	ansible-playbook -i $(INVENTORY) playbooks/kafka_distribution.yml
	pytest app/tests -m 'integration and not slow' --numprocesses=$(WORKERS) --dist=loadfile

integration-slow: setup ## The slow ones of them
	ansible-playbook -i $(INVENTORY) playbooks/kafka_distribution.yml
	pytest app/tests -m 'integration and slow'

mutation: setup ## Make small wrong changes to a copy of the code, and count those that the unit tests notice (minutes)
	$(RUN) -m scripts.mutation

test-docs: setup ## The page /docs in a real browser (installs Chromium, 300 MB; not part of `make test`)
	@bash scripts/setup.sh docs
	ansible-playbook -i $(INVENTORY) playbooks/kafka_distribution.yml
	pytest app/tests -m browser

molecule: setup ## The whole stack on two fresh nodes of its own: SUITE=bookworm for Debian 12
	trap 'molecule destroy' INT; molecule test

test-side-effects: setup ## Reboot, break and repair two fresh nodes, with the slow cases that `make molecule` leaves out
	trap 'molecule destroy' EXIT; molecule converge; \
	    TIMESTAMP_INVENTORY=molecule/shared/inventory pytest molecule/shared/side_effects

test-faults: setup ## Faults, rebuilds, deployments and backups under load, on two fresh nodes (TESTS='-k reboot': a part)
	trap 'molecule destroy --scenario-name faults' EXIT; molecule converge --scenario-name faults; \
	    TIMESTAMP_INVENTORY=molecule/faults/inventory pytest molecule/faults $(TESTS)

test-cluster: setup ## A cluster of Kafka that grows, fails in every way and shrinks, on six fresh nodes
	trap 'molecule destroy --scenario-name cluster' EXIT; molecule converge --scenario-name cluster; \
	    TIMESTAMP_INVENTORY=molecule/cluster/inventory/small.yml pytest molecule/faults/test_cluster.py $(TESTS)

audit: ## Audit the running nodes by lynis and testssl.sh; a finding that is not fixed must be waived with a reason
	@bash scripts/setup.sh up audit; $(CLI)

vagrant-test: ## Create, test and destroy the Vagrant machines: PROVIDER=libvirt (emulated: an hour) or lxc, SUITE=trixie or bookworm
	@bash scripts/setup.sh up test vagrant $(PROVIDER); $(NSPAWN) $(RUN) -m scripts.vagrant.trial --provider $(PROVIDER) --suite $(SUITE)

box: ## Build a Vagrant box from Debian packages and add it: PROVIDER=libvirt (TIMESTAMP_BOX chooses it) or lxc, SUITE=trixie or bookworm
	@bash scripts/setup.sh up vagrant $(PROVIDER); $(NSPAWN) $(RUN) -m scripts.vagrant.box --provider $(PROVIDER) --suite $(SUITE)

docs: setup ## Generate the README of every role and docs/variables.md from the argument specifications
	$(RUN) scripts/role_docs.py

requirements: setup ## Pin the newest versions that requirements/*.in allow
	cd requirements && for name in nodes installer controller bench; do \
	    pip-compile --quiet --upgrade --allow-unsafe --generate-hashes --no-emit-find-links --no-emit-index-url \
	        --no-emit-trusted-host --strip-extras --output-file=$$name.txt $$name.in; done

bench: ## Measure what nginx costs on the running nodes, by recording timestamps: BENCH='--rounds 7 --seconds 3'
	@bash scripts/setup.sh up bench; $(AS_ROOT) env PYTHONPATH=app $(RUN) -m bench.proxying --inventory $(INVENTORY) $(BENCH)

bench-app: ## Measure the three processes on loopback, next to rulers: BENCH='--quick' or what `--help` lists
	@bash scripts/setup.sh test bench; PYTHONPATH=app $(RUN) -m bench $(BENCH)

bench-rebuild: ## Measure a rebuild of 1,000,000 records on loopback: BENCH='--records 100000'
	@bash scripts/setup.sh test bench; PYTHONPATH=app $(RUN) -m bench.rebuilding $(BENCH)

bench-provision: ## Measure `make up` on nodes of its own: nothing cached, all cached, nothing to do
	@bash scripts/setup.sh up; $(RUN) -m bench.provisioning

$(VENV)/.stamp:
	@echo 'Nothing is set up yet: run `make setup`$(if $(filter inventories/local,$(INVENTORY)), (or `make up`)).' >&2; exit 1

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { print "\n" substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
