# Two commands on a fresh machine: make demo, make test. Each sets up .venv by itself; the stamp follows setup.cfg.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed.stamp
CMMD := $(VENV)/bin/cmmd
RUN := runs/demo

.PHONY: demo page reproduce test docs hostile clean

$(STAMP): setup.cfg setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,docs]'
	touch $@

demo: $(STAMP)
	$(CMMD) render bounce $(RUN)/data/train --num_clips 600 --seed 1 --fps 20
	$(CMMD) render bounce $(RUN)/data/val --num_clips 16 --seed 2 --fps 20
	$(CMMD) render bounce $(RUN)/test/clips --num_clips 64 --seed 3 --duration 1.2 --fps 20
	$(CMMD) render bounce $(RUN)/test/silent --num_clips 64 --seed 3 --duration 1.2 --fps 20 --streams video
	$(CMMD) render bounce $(RUN)/test/sounds --num_clips 64 --seed 3 --duration 1.2 --fps 20 --streams audio
	$(CMMD) prepare --config demo.yaml
	$(CMMD) fit --config demo.yaml
	$(CMMD) predict --ckpt_path $(RUN)/cmmd.ckpt --generate.task video_to_audio --generate.inputs $(RUN)/test/silent \
		--generate.output_dir $(RUN)/video_to_audio --generate.guidance_scale 2 --generate.num_inference_steps 25
	$(CMMD) predict --ckpt_path $(RUN)/cmmd.ckpt --generate.task audio_to_video --generate.inputs $(RUN)/test/sounds \
		--generate.output_dir $(RUN)/audio_to_video --generate.guidance_scale 2 --generate.num_inference_steps 25
	$(CMMD) evaluate --task audio_to_video --generated $(RUN)/audio_to_video --reference $(RUN)/test/clips \
		--ckpt_path $(RUN)/cmmd.ckpt --report $(RUN)/report.json
	$(CMMD) evaluate --task video_to_audio --generated $(RUN)/video_to_audio --reference $(RUN)/test/clips \
		--ckpt_path $(RUN)/cmmd.ckpt --report $(RUN)/report.json
	@echo "Look at $(RUN)/report.html; clips in $(RUN)/video_to_audio and $(RUN)/audio_to_video; model $(RUN)/cmmd.ckpt"

page: $(STAMP)
	$(CMMD) demo --output_dir build/page --open false

reproduce: $(STAMP)
	$(VENV)/bin/python benchmarks/reproduce.py $(if $(QUICK),--quick) $(if $(GRID),--grid $(GRID))

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "Look at build/site/index.html"

test: $(STAMP) docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

hostile: $(STAMP)
	HOSTILE_CASES=5000 $(VENV)/bin/python -m pytest tests/hostile

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache
