"""Benchmark files from procedural rooms: the published formats, true by construction (`make`).

Open `making.py` first (the story of `vega3d-benchmark make`), then `facts.py` (what is known of a
room). `referring.py`, `answering.py` and `spatial.py` ask, `balance.py` sees to it that a question
does not give its answer away, `formats.py` writes. Knows rooms; no store and no model.
"""
