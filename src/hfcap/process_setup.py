"""Process settings made before torch and bitsandbytes are imported; commands import this module first.

Idle threads of OpenMP spin for a short while only, then sleep: threads that spin keep the cores that another process
needs, and threads that sleep at once cost a quiet machine 40 % of its speed (docs/decisions.md). OMP_WAIT_POLICY and
GOMP_SPINCOUNT in the environment are kept. And bitsandbytes does not warn, at each start, that the optional package
`kernels` is not installed.
"""

import logging
import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # 300,000 by default
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
