"""Names of packages that Python files of users may import, and the commands that install them.

install_command("sklearn")          # "pip install 'mlaas4hep[sklearn]'"
install_command("my_layers")        # "": not a known package
"""

from __future__ import annotations

_EXTRAS = {"keras": "keras", "tensorflow": "keras", "torch": "torch", "sklearn": "sklearn", "xgboost": "xgboost"}
"""Extras of this package, by module."""

_DISTRIBUTIONS = {
    "awkward": "awkward", "boost_histogram": "boost-histogram", "catboost": "catboost", "cv2": "opencv-python",
    "dgl": "dgl", "e3nn": "e3nn", "einops": "einops", "energyflow": "energyflow", "fastjet": "fastjet", "flax": "flax",
    "h5py": "h5py", "hist": "hist", "hls4ml": "hls4ml", "jax": "jax", "joblib": "joblib", "keras_tuner": "keras-tuner",
    "lightgbm": "lightgbm", "lightning": "lightning", "matplotlib": "matplotlib", "mplhep": "mplhep",
    "networkx": "networkx", "nflows": "nflows", "numba": "numba", "optax": "optax", "optuna": "optuna",
    "pandas": "pandas", "particle": "particle", "PIL": "pillow", "polars": "polars", "psutil": "psutil",
    "pyarrow": "pyarrow", "pytorch_lightning": "pytorch-lightning", "qkeras": "qkeras", "scipy": "scipy",
    "seaborn": "seaborn", "skimage": "scikit-image", "statsmodels": "statsmodels",
    "tensorflow_addons": "tensorflow-addons", "tensorflow_probability": "tensorflow-probability",
    "tf_keras": "tf-keras", "timm": "timm", "torch_geometric": "torch-geometric", "torchmetrics": "torchmetrics",
    "torchvision": "torchvision", "tqdm": "tqdm", "transformers": "transformers", "uproot": "uproot",
    "vector": "vector", "weaver": "weaver-core", "yaml": "pyyaml", "zuko": "zuko",
}  # fmt: skip
"""Names of packages on PyPI, by module."""

KNOWN_PACKAGES = (*_EXTRAS, *_DISTRIBUTIONS)


def install_command(module: str) -> str:
    """Return the command that installs the package of a top-level module; "" if the package is not known."""
    if module in _EXTRAS:
        return f"pip install 'mlaas4hep[{_EXTRAS[module]}]'"
    return f"pip install {_DISTRIBUTIONS[module]}" if module in _DISTRIBUTIONS else ""
