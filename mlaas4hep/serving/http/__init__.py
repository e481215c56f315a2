"""HTTP below the routes: connections, limits, access, request bodies, metrics."""
