"""Running models: predictors, child processes, limits, batching."""
