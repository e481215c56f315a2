"""Names of columns in files of scores, beside the scores themselves."""

PASSES = "passes_cuts"
"""Whether the event passes the cuts of the bundle."""

PART = "part"
"""The set of the training to which the event belonged: 0 training, 1 validation, 2 test, -1 unseen."""
