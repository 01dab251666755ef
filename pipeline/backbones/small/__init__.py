"""Small checkpoints of the real classes with weights from a seed, in the published layouts.

They show that a family's path is whole where its weights cannot be had, and are what a trained
model must beat; they know nothing of the world. Open `catalogue.py`: every encoder's, by name.
"""
