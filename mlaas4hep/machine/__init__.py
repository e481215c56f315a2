"""The memory and the CPUs that this process may use."""
