"""Backends: one adapter for each framework, and the modules that all of them share (model files, tasks, metrics)."""
