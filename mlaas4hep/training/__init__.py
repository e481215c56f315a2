"""Training, checkpoints, ONNX export and bundles.

    from mlaas4hep.training import train_model
    trained = train_model(["ggH.root", "VBF.root"], ["ggH", "VBF"], "ex_pytorch.py", fout="model")

A framework is imported only if a model of this framework is trained.
"""

from typing import TYPE_CHECKING

from mlaas4hep.lazy_names import lazy_names

if TYPE_CHECKING:
    from mlaas4hep.training.run import train_model

__all__ = ["train_model"]

__getattr__ = lazy_names(__name__, {"train_model": "mlaas4hep.training.run"})
