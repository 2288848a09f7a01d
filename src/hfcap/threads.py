"""Importing this module, before torch is imported, lets idle threads of OpenMP sleep instead of spin.

Threads that spin keep the cores that another process needs: beside other work a training ran at a quarter of its speed
(docs/decisions.md). A value of OMP_WAIT_POLICY in the environment is kept.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
