"""The paper's questions at desk scale: `vega3d-benchmark desk`. Open `paper.py` first.

The one room that sees all stages: it extracts, scores and trains, and draws one page.
"""
