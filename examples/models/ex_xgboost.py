"""Boosted trees of XGBoost.

workflow.py --files=files.txt --labels=labels.txt --model=ex_xgboost.py
"""

import xgboost


def model(idim, task="classification"):
    """Return an estimator; training stops when the validation loss has not improved for 25 rounds.

    The labels determine the objective. The trees get unnormalised values, and NaN for missing values.
    """
    kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    return kind(n_estimators=1000, learning_rate=0.05, max_depth=6, subsample=0.8, early_stopping_rounds=25)
