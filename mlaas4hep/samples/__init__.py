"""The files of samples: their names, their readers, and what they contain."""
