"""Publish a run: export it, load the export in a clean process and compare, write its card, upload it in one commit.

    # to a private repository, under a tag; the token comes from HF_TOKEN or `hf auth login`
    python recipes/push_to_hub.py outputs/scenes-qlora --repo USER/scenes-qlora --private --tag v1.0
    # the adapter alone, for a base that others can load
    python recipes/push_to_hub.py outputs/flickr8k-llava-qlora/adapter --repo USER/photos-lora --base_model OWNER/BASE
    # with its code (trust_remote_code), for people who do not install hfcap
    python recipes/push_to_hub.py outputs/flickr8k-encoder-decoder --repo USER/photos --format remote-code

The same as `hfcap push`. If anything differs from the run, nothing is uploaded. Running it again uploads only what
has changed.
"""

import sys

from hfcap.cli import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])
