"""The protobuf messages of the Open Inference Protocol's gRPC service, `inference.GRPCInferenceService`.

    messages = load_messages()
    request = messages["ModelInferRequest"].FromString(body)

Names and numbers of fields are those of the published protocol (github.com/kserve/open-inference-protocol) and, for the
configuration, the statistics and the index of models, those of Triton. Fields that the server neither reads nor writes
are left out; protobuf skips them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mlaas4hep.errors import require

SERVICE = "inference.GRPCInferenceService"

_NAMED = "1 name string, 2 version string"
_TENSOR = "1 name string, 2 datatype string, 3 shape int64*"
_MESSAGES = {
    "ServerLiveRequest": "", "ServerLiveResponse": "1 live bool",
    "ServerReadyRequest": "", "ServerReadyResponse": "1 ready bool",
    "ModelReadyRequest": _NAMED, "ModelReadyResponse": "1 ready bool",
    "ServerMetadataRequest": "", "ServerMetadataResponse": "1 name string, 2 version string, 3 extensions string*",
    "ModelMetadataRequest": _NAMED,
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": "1 name string, 2 versions string*, 3 platform string, 4 inputs TensorMetadata*,"
    " 5 outputs TensorMetadata*",
    "InferParameter": "1 bool_param bool, 2 int64_param int64, 3 string_param string, 4 double_param double,"
    " 5 uint64_param uint64",
    "InferTensorContents": "1 bool_contents bool*, 2 int_contents int32*, 3 int64_contents int64*,"
    " 4 uint_contents uint32*, 5 uint64_contents uint64*, 6 fp32_contents float*, 7 fp64_contents double*,"
    " 8 bytes_contents bytes*",
    "InferInputTensor": f"{_TENSOR}, 4 parameters map, 5 contents InferTensorContents",
    "InferRequestedOutputTensor": "1 name string, 2 parameters map",
    "InferOutputTensor": f"{_TENSOR}, 4 parameters map, 5 contents InferTensorContents",
    "ModelInferRequest": "1 model_name string, 2 model_version string, 3 id string, 4 parameters map,"
    " 5 inputs InferInputTensor*, 6 outputs InferRequestedOutputTensor*, 7 raw_input_contents bytes*",
    "ModelInferResponse": "1 model_name string, 2 model_version string, 3 id string, 4 parameters map,"
    " 5 outputs InferOutputTensor*, 6 raw_output_contents bytes*",
    "RepositoryIndexRequest": "1 repository_name string, 2 ready bool",
    "ModelIndex": "1 name string, 2 version string, 3 state string, 4 reason string",
    "RepositoryIndexResponse": "1 models ModelIndex*",
    "ModelConfigRequest": _NAMED,
    "Latest": "1 num_versions uint32", "ModelVersionPolicy": "1 latest Latest", "ModelDynamicBatching": "",
    "ModelInput": "1 name string, 2 data_type int32, 4 dims int64*",
    "ModelOutput": "1 name string, 2 data_type int32, 3 dims int64*",
    "ModelConfig": "1 name string, 2 platform string, 3 version_policy ModelVersionPolicy, 4 max_batch_size int32,"
    " 5 input ModelInput*, 6 output ModelOutput*, 11 dynamic_batching ModelDynamicBatching, 17 backend string",
    "ModelConfigResponse": "1 config ModelConfig",
    "ModelStatisticsRequest": _NAMED,
    "StatisticDuration": "1 count uint64, 2 ns uint64",
    "InferStatistics": "1 success StatisticDuration, 5 compute_infer StatisticDuration",
    "ModelStatistics": "1 name string, 2 version string, 4 inference_count uint64, 5 execution_count uint64,"
    " 6 inference_stats InferStatistics",
    "ModelStatisticsResponse": "1 model_stats ModelStatistics*",
}  # fmt: skip
"""Number, name and type of the fields of each message; `*`: repeated; map: strings to InferParameter.

Messages that the protocol nests in others, and enumerations (`data_type`), have the same bytes as these.
"""

DATA_TYPES = {"TYPE_FP32": 11}
"""Numbers of Triton's enumeration `DataType`, as far as the server uses them."""

Messages = Mapping[str, Any]


@cache
def load_messages() -> Messages:
    """Return the class of each message.

    Raises:
        PackageMissing: protobuf is not installed.
    """
    pool_module, factory, json_format, descriptor = (
        require(f"google.protobuf.{module}", "grpc", "gRPC")
        for module in ("descriptor_pool", "message_factory", "json_format", "descriptor_pb2")
    )
    pool = pool_module.DescriptorPool()
    pool.Add(json_format.ParseDict(_description(), descriptor.FileDescriptorProto()))
    return {name: factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _MESSAGES}


def _description() -> dict[str, Any]:
    """Return the messages as a FileDescriptorProto in JSON."""
    messages = [_message(name, text) for name, text in _MESSAGES.items()]
    return {"name": "mlaas4hep_inference.proto", "package": "inference", "syntax": "proto3", "messageType": messages}


def _message(name: str, text: str) -> dict[str, Any]:
    fields = [tuple(part.split()) for part in text.split(",") if part.strip()]
    message: dict[str, Any] = {"name": name, "field": [_field(name, *field) for field in fields]}
    if any(field[2] == "map" for field in fields):
        entry = [_field("", "1", "key", "string"), _field("", "2", "value", "InferParameter")]
        message["nestedType"] = [{"name": "ParametersEntry", "field": entry, "options": {"mapEntry": True}}]
    if name == "InferParameter":  # tells which of the values is set
        message["oneofDecl"] = [{"name": "parameter_choice"}]
        for field in message["field"]:
            field["oneofIndex"] = 0
    return message


def _field(owner: str, number: str, name: str, kind: str) -> dict[str, Any]:
    repeated = kind.endswith("*") or kind == "map"
    kind = f"{owner}.ParametersEntry" if kind == "map" else kind.removesuffix("*")
    is_message = kind.partition(".")[0] in _MESSAGES
    described = {"typeName": f".inference.{kind}"} if is_message else {"type": f"TYPE_{kind.upper()}"}
    return {"name": name, "number": int(number), "label": _LABELS[repeated], **described}


_LABELS: Sequence[str] = ("LABEL_OPTIONAL", "LABEL_REPEATED")
