"""RNTuples as sources of columns: metadata, pages, and their encodings."""
