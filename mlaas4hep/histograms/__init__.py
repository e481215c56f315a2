"""Histograms of every branch, as a PDF and as an HTML page."""
