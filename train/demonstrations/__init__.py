"""Demonstrations of robots: actions, states and instructions beside the episodes' frames.

Open `episode.py` first (what every file becomes), then `bounds.py` (how numbers are normalised);
`libero.py` and `lerobot.py` read a layout each, `reading.py` joins them with stores. Knows the
readers of scenes; no store, no model.
"""
