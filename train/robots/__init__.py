"""Trained policies in simulators: `vega3d-benchmark libero`.

Open `simulator.py` first (what a simulator offers), then `rolling.py` (an episode after the other)
and `policy.py` (a run's folder, its encoders online). `picking.py` is a small MuJoCo scene of our
own with a scripted expert (`expert.py`), `libero.py` the real one.
"""
