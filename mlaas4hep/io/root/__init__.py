"""ROOT files, and their TTrees as sources of columns."""
