"""The slow twin, for every test of the folder."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def twin() -> ModuleType:
    path = Path(__file__).with_name("slow_twin.py")
    spec = importlib.util.spec_from_file_location("slow_twin", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
