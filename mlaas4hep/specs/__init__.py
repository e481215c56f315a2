"""Specs: the statistics of every branch, collected in one pass over the data."""
