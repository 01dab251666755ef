"""Every encoder side by side: extracted, scored and probed by one command.

Open `comparison.py` first: the story. `choosing.py` says which weights each encoder has, `page.py`
puts the two tables on one page. The one room of `evaluate` that runs encoders.
"""
