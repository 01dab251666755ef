"""Procedural rooms with exact depth and poses.

Open `rooms.py` first (a scene source), then `film.py` (a room and its cameras). `layout.py` and
`furniture.py` say what stands where, `walks.py` how it is filmed, `casting.py`, `lighting.py` and
`patterns.py` (compiled) what that looks like, `truth.py` what is known of every pixel. Knows what a
scene is, and nothing else of ours.
"""
