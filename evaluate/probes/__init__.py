"""What can be read from cached features by simple maps: a second opinion beside the score.

Open `probe.py` first: the story of the command. `questions.py` says what is asked of depth and
poses, `readout.py` has the ridge and the small MLP, `crossfit.py` the split by scene. Knows
no encoder and no trainer.
"""
