"""Search for events that occur more than once, in one file or in several."""
