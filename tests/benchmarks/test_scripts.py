"""Benchmarks are scripts: each must find what it imports where pytest has prepared nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

_IMPORT_EACH = """
import os, runpy, sys
import torch  # once for all
failed = []
for script in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        sys.path.insert(0, os.path.dirname(script))
        runpy.run_path(script, run_name="imported")
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(script)
sys.exit(", ".join(failed) or 0)
"""


@pytest.mark.slow
def test_each_finds_its_modules() -> None:
    scripts = sorted(map(str, Path(__file__).parent.glob("bench_*.py")))
    assert len(scripts) > 10
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH, *scripts], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
