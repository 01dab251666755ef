"""Published annotation files in, checked items out: ScanRefer, ScanQA, VSI-Bench and the rest.

Open `item.py` first (what every file becomes), then `published.py` (how each format is known and
read); `joining.py` says which scenes a store lacks. Knows the benchmarks' formats; no store, no
model.
"""
