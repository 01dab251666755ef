"""The desk models: a small Wan and a small SigLIP, trained from scratch on procedural rooms.

Open `generator.py` first, then `semantic.py`: each tells the story of one command. This is the only
trainer that imports diffusers or transformers; what it saves has the published layouts.
"""
