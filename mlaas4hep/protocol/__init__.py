"""Code shared by client and server: params.json, limits, safe reading of regular files."""
