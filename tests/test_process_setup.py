"""Commands make settings of the process before torch is imported, and keep those of the user."""

import os
import subprocess
import sys

import pytest

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_spin_for_a_short_while_unless_the_user_says_otherwise(given, spins):
    code = "import sys, os; import hfcap.cli; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert process.stdout.split() == ["False", str(spins)], process.stderr
