"""Expressions over branches, and preprocessing with new branches and cuts."""
