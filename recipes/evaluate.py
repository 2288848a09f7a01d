r"""Caption a data set with any checkpoint, and score the captions.

    # a run folder (its merged/ or model/), on the data it was trained for
    python recipes/evaluate.py --model outputs/scenes-qlora \
        --data scenes --scenes_style alt_text --scenes_image_size 64
    # an adapter on its 4-bit base, as it was trained
    python recipes/evaluate.py --model outputs/scenes-qlora/adapter --load_in_4bit \
        --data scenes --scenes_style alt_text --scenes_image_size 64
    # several GPUs or CPU processes, each with its share of the pictures
    accelerate launch --config_file configs/accelerate/ddp.yaml recipes/evaluate.py --model outputs/scenes-base
    # photos of any size and orientation
    python recipes/evaluate.py --model outputs/flickr8k-encoder-decoder --data ../shared/data/flickr8k_original

Writes `captions.jsonl`, `metrics.json` and `report.html` into `--output_dir` (by default `evaluation/` in the run
folder, or `outputs/NAME-evaluation` for a model from the Hub). `hfcap evaluate MODEL` is the same without a launcher.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

from hfcap.errors import run_main
from hfcap.model_evaluation import main

if __name__ == "__main__":
    run_main(main)
