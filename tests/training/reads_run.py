"""Start a run of several processes on a folder of photos, and print how many pictures each process decoded."""

import sys
from pathlib import Path

import datasets
from PIL import Image

from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.run_folder import start_run

photos, run, cache = sys.argv[1:]
datasets.config.HF_DATASETS_CACHE = Path(cache)
decoded = []
load = Image.open
Image.open = lambda *given, **options: [decoded.append(1), load(*given, **options)][1]
options = ["--use_cpu", "true", "--output_dir", run, "--data", photos]
parsed = parse_arguments(DataArguments, ModelArguments, CaptionTrainingArguments, argv=options)
rows, _ = start_run(Path(run), parsed)
print(f"rank {parsed[-1].process_index}: {len(rows[0])} rows, {len(decoded)} decoded", flush=True)
