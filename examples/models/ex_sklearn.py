"""Boosted trees of scikit-learn, which are fitted to all events in memory.

workflow.py --files=files.txt --labels=labels.txt --model=ex_sklearn.py
"""

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor


def model(idim, task="classification"):
    """Return an estimator that supports missing values (NaN)."""
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    return kind(max_iter=100, early_stopping=False)
