"""Files of records, as tests write them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from record_files import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write records as JSON lines where the name ends in .jsonl, else as one JSON list."""

    def write(name: str, records: Sequence[dict]) -> Path:
        path = tmp_path / name
        lines = "\n".join(json.dumps(record) for record in records)
        path.write_text(lines if name.endswith("l") else json.dumps(records))
        return path

    return write
