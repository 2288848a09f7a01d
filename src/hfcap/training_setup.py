"""What recipes do before they import torch: process settings, and one line where libraries of training are missing.

A recipe imports its libraries at the top, before `hfcap.errors.run_main` could make a line of what is missing.
"""

import sys
from importlib.util import find_spec

import hfcap.process_setup  # noqa: F401
from hfcap.extras import EXTRAS, missing_line

for _library in EXTRAS["train"]:
    if find_spec(_library) is None:
        print(f"error: {missing_line(_library, 'train')}", file=sys.stderr)
        sys.exit(2)
