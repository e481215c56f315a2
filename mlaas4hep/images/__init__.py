"""Images of events: from a folder of them to a trained classifier."""
