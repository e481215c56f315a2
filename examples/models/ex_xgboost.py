"""Boosted trees of XGBoost.

workflow.py --files=files.txt --labels=labels.txt --model=ex_xgboost.py
"""

import xgboost


def model(idim, task="classification"):
    """Return an estimator; its rounds end when 25 of them did not make the validation loss any better.

    The objective follows from the labels. Trees see the numbers as they are in the files, and know which are missing.
    """
    kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    return kind(n_estimators=1000, learning_rate=0.05, max_depth=6, subsample=0.8, early_stopping_rounds=25)
