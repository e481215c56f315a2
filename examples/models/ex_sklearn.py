"""Boosted trees of scikit-learn, which take all events into memory at once.

workflow.py --files=files.txt --labels=labels.txt --model=ex_sklearn.py
"""

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor


def model(idim, task="classification"):
    """Return an estimator that knows which numbers are missing."""
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    return kind(max_iter=100, early_stopping=False)
