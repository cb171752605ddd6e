.PHONY: help setup lab test test-changed notebooks bench
SINCE ?= HEAD

help:
	@echo "make lab        set up what is missing, then open JupyterLab on your copies of the notebooks, in work/"
	@echo "make test       set up what is missing, then run every check: style, types, tests, notebooks"
	@echo "make test-changed SINCE=commit   style, types, and the tests that stand on what has changed since (HEAD)"
	@echo "make setup      only make .venv and install the pinned packages (PYTHON=... chooses the Python)"
	@echo "make notebooks  run every notebook again and store its outputs"
	@echo "make bench      measure the speed of training, and of a cluster's start, on this machine"

setup:
	@sh tools/setup.sh lab

lab: setup
	@.venv/bin/dlkit lab

test:
	@sh tools/setup.sh test
	@sh tools/test.sh

test-changed:
	@sh tools/setup.sh test
	@sh tools/test.sh "$(SINCE)"

notebooks: setup
	@sh tools/notebooks.sh

bench: setup
	@.venv/bin/dlkit bench rbm
	@.venv/bin/dlkit bench dbn
	@.venv/bin/dlkit bench cnn
	@.venv/bin/dlkit bench parallel
