"""Read structs in TTrees, whose members become columns."""
