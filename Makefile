# The same commands for people, the pre-commit hook, the workflow and .ci/run. `pip install -e ".[dev]"` brings the tools.
.PHONY: quality style test test-slow

CODE := $(wildcard src tests recipes benchmarks)
MLINTER_RULES := build/mlinter_rules.toml

quality: $(MLINTER_RULES)
	ruff check $(CODE)
	ruff format --check $(CODE)
	python -m mlinter --rules-toml $(MLINTER_RULES) --no-progress --no-cache src/hfcap/models

style:
	ruff check --fix $(CODE)
	ruff format $(CODE)

test:
	pytest

test-slow:
	pytest -m slow

# TRF028 asks for transformers' licence header and TRF057 for @auto_docstring, which renders badly outside transformers.
# mlinter has no switch for leaving a rule out, so its own rule file is copied with these two turned off.
$(MLINTER_RULES): pyproject.toml Makefile
	@mkdir -p $(@D)
	@sed -E '/^\[rules\.TRF(028|057)\]/,/^default_enabled/ s/^default_enabled = true/default_enabled = false/' \
		"$$(python -c 'import mlinter; print(mlinter.__path__[0])')/rules.toml" > $@
