"""Procedural rooms with exact depth and poses: `rooms.py` draws what `furniture.py` places.

Knows what a scene is, and nothing else of ours. Open `rooms.py` first.
"""
