PYTHON ?= python3
BIN := .venv/bin
# For what these programs start. The programs themselves are named by their folder: make 3.81, which macOS has, looks for
# them along the PATH that it was started with.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONSAFEPATH  # with it `python -m stages…` would not find this folder

.PHONY: help setup repro report test book ui lint lock clean distclean
.DEFAULT_GOAL := help

help:            ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:           ## build the environment in .venv; quick when it is done
	@$(PYTHON) setup_environment.py

repro: setup     ## run what is out of date: data, training, evaluation, plots
	$(BIN)/python -m stages.repro

report: repro    ## do that, and put the chapters' metrics and figures on one page, report.html
	$(BIN)/python -m stages.report

test: setup      ## run the test suite
	$(BIN)/python -m pytest

book: setup      ## run the book's own recipes, but chapter 9's, as one experiment; writes metrics/book/
	$(BIN)/python -m stages.book

ui: setup        ## compare runs in MLflow's UI
	@case "$$MLFLOW_TRACKING_URI" in \
		http*) echo "The runs are at $$MLFLOW_TRACKING_URI: open that page" ;; \
		*) $(BIN)/python -m stages.common.store && $(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" ;; \
	esac

lint: setup      ## check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

lock: setup      ## pin the newest versions that pyproject.toml allows; make repro then runs what they concern
	$(BIN)/python -m uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --extra dev pyproject.toml -o requirements.lock
	$(BIN)/python -m stages.packages

clean:           ## remove the environment and what tools leave behind
	rm -rf .venv .venv.lock .pytest_cache .ruff_cache
	find stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove, besides, all data, models, unfinished trainings and recorded runs
	rm -rf .checkpoints data .dvc/cache .dvc/tmp mlflow.db* .mlflow.db.* mlartifacts .mlflow.lock report.html dvc_plots
