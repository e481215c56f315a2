"""ROOT files: TTrees and RNTuples as sources of columns."""
