"""Ray: units handed to actors on this machine or on a cluster. Knows Ray, and no maths.

Open `ray_runner.py`: `run_ray` is to `vega3d.pipeline.runners.run_inline` what a team is to one
person, and stores the same bytes.
"""
