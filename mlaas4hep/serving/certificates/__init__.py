"""TLS and grid certificates: authorities, proxies, revocation, and the names that may change models."""
