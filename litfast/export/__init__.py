"""A trained model as one file for others to load, and the proof that it computes the same."""
