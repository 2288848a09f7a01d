"""Process settings made before torch and bitsandbytes are imported; commands import this module first.

Idle threads of OpenMP sleep instead of spin: threads that spin keep the cores that another process needs, and beside
other work a training ran at a quarter of its speed (docs/decisions.md). A value of OMP_WAIT_POLICY in the environment
is kept. And bitsandbytes does not warn, at each start, that the optional package `kernels` is not installed.
"""

import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
