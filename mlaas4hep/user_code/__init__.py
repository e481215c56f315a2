"""Execution of the Python files that a user names: model files and preprocessing."""
