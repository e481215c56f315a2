"""Detection of file formats, and readers of all formats except ROOT."""
