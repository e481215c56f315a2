"""The options for reading and training: params.json, and the flags and keywords of the same meaning."""

from mlaas4hep.config.friends import FriendParams
from mlaas4hep.config.reading import IDENTIFIER, FilesParams, InputParams, ReadParams, model_inputs, parse_inputs
from mlaas4hep.config.reweighting import ReweightParams
from mlaas4hep.config.training import Params, TaskName, parse_params

__all__ = [
    "IDENTIFIER",
    "FilesParams",
    "FriendParams",
    "InputParams",
    "Params",
    "ReadParams",
    "ReweightParams",
    "TaskName",
    "model_inputs",
    "parse_inputs",
    "parse_params",
]
