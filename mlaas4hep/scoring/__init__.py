"""Scores of the events of files, by the model of a bundle."""
