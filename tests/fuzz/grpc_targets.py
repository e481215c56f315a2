"""Requests to the gRPC service, without gRPC itself: the messages, and the tensors in them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fuzz.checks import Fault, Parse, Target
from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.models.tensor import Tensor
from mlaas4hep.serving.protocols.grpc_messages import load_messages
from mlaas4hep.serving.protocols.grpc_service import parse_message
from mlaas4hep.serving.protocols.grpc_tensors import read_grpc_inference, write_grpc_response

_TAKES, _RETURNS = Tensor("inputs", (5,)), Tensor("scores", (1,))


def _grpc(folder: Path, stack: ExitStack) -> Parse:
    """The input is a ModelInferRequest."""
    messages = load_messages()

    def parse(data: bytes) -> None:
        request = parse_message(messages["ModelInferRequest"], data)
        inference = read_grpc_inference(request, _TAKES, _RETURNS)
        if inference.matrix.shape[1:] != (5,) or inference.matrix.dtype != np.float32:
            raise Fault(f"the matrix has the shape {inference.matrix.shape}")
        scores = np.nansum(inference.matrix, axis=1, keepdims=True, dtype=np.float32)
        body = write_grpc_response("m", "1", _RETURNS, inference, scores)
        try:
            parse_message(messages["ModelInferResponse"], body)
        except ConfigError as error:
            raise Fault("the response is not a message") from error

    return parse


TARGETS = [Target("grpc", _grpc)]
