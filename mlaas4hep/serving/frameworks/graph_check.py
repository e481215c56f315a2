"""Checks of untrusted TensorFlow graphs: unused parts are removed, all operations must be on a list or stateless.

    graph = pruned(definition, ["scores"], feed="inputs")

An operation without string arguments cannot name a file or a Python function. Stateless operations without strings
are therefore allowed, and a short list of others: variables, calls of functions in the graph, loops. This excludes
ReadFile, PyFunc, dataset readers, queues, tables, and similar operations of later TensorFlow versions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from mlaas4hep.errors import ConfigError

_REFUSED = re.compile(r"_|RemoteCall|SymbolicGradient|.*(Dataset|Debug|Snapshot|Tpu|TPU|Xla)")
_ALLOWED = {
    "Assert", "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp", "DataFormatDimMap",
    "DataFormatVecPermute", "Einsum", "Enter", "If", "Multinomial", "PartitionedCall", "PreventGradient",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "ReadVariableOp", "RefEnter", "ResourceGather",
    "ResourceGatherNd", "ScaleAndTranslate", "ScatterNd", "StatefulPartitionedCall", "TensorArrayCloseV3",
    "TensorArrayConcatV3", "TensorArrayGatherV3", "TensorArrayReadV3", "TensorArrayScatterV3", "TensorArraySizeV3",
    "TensorArraySplitV3", "TensorArrayV3", "TensorArrayWriteV3", "TensorScatterAdd", "TensorScatterMax",
    "TensorScatterMin", "TensorScatterSub", "TensorScatterUpdate", "TruncatedNormal", "VarHandleOp",
    "VarIsInitializedOp", "Variable", "VariableV2", "While",
}  # fmt: skip
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_SETTINGS = ("config", "config_proto", "executor_type")  # attributes of calls, specific to the machine that wrote them
_OWN_VARIABLES = "tfaas_own_variables"
_FLOAT, _STRING = 1, 7  # DataType of TensorFlow's types.proto


def pruned(graph: Any, targets: Iterable[str], feed: str, variables: str = "", filename: str = "") -> Any:
    """Return the part of a graph that targets need, if all its operations are allowed.

    Args:
        graph: a GraphDef.
        targets: names of operations.
        feed: the operation that is fed; it becomes a placeholder.
        variables: path of the checkpoint to restore, overrides the path in the graph; "": restoring is not allowed.
        filename: the operation that returns the path of the checkpoint; "": none.

    Raises:
        ConfigError: the graph has operations that are not allowed, or is damaged.
    """
    nodes = {node.name: node for node in graph.node}
    library = {function.signature.name: function for function in graph.library.function}
    result = type(graph)()
    result.versions.CopyFrom(graph.versions)
    result.node.extend(nodes[name] for name in sorted(reachable(nodes, targets, stop=(feed, filename))))
    for node in result.node:
        if node.name == feed:
            _make_placeholder(node)
        elif node.name == filename:
            _make_text(node, variables)
    result.library.function.extend(library[name] for name in sorted(_called(result.node, library)))
    _check_and_clean(result.node, library, variables, "")
    for function in result.library.function:
        function.attr.clear()
        _check_and_clean(function.node_def, library, variables, ":output:0")
    return result


def reachable(nodes: Mapping[str, Any], targets: Iterable[str], stop: Collection[str] = ()) -> set[str]:
    """Return the names of all nodes that targets need. Inputs of the nodes in `stop` are not followed.

    Raises:
        ConfigError: a node is missing.
    """
    names: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        if name not in nodes:
            raise ConfigError(f"the graph has no operation '{name[:100]}'")
        names.add(name)
        if name not in stop:
            waiting += [operation(tensor) for tensor in nodes[name].input]
    return names


def operation(tensor: str) -> str:
    """Return the operation of a tensor or control input: "scores" for "scores:0" and for "^scores"."""
    return tensor.removeprefix("^").partition(":")[0]


def _called(nodes: Iterable[Any], library: Mapping[str, Any]) -> set[str]:
    """Return the names of the functions that nodes call, directly or indirectly."""
    called: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        names = {node.op} & library.keys() | set(_named_functions(node.attr))
        if unknown := names - library.keys():
            raise ConfigError(f"the graph has no function '{min(unknown)[:100]}'")
        for name in names - called:
            called.add(name)
            waiting += library[name].node_def
    return called


def _named_functions(attributes: Mapping[str, Any]) -> Iterator[str]:
    for value in attributes.values():
        for function in [value.func] if value.HasField("func") else value.list.func:
            yield function.name
            yield from _named_functions(function.attr)


def _check_and_clean(nodes: Any, library: Mapping[str, Any], variables: str, suffix: str) -> None:
    """Check the nodes of a graph or a function, and remove settings of the machine that wrote it; see `pruned`.

    The `suffix` of tensor names is ":output:0" in functions.
    """
    restores = [node for node in nodes if node.op == "RestoreV2"]
    for node in nodes:
        allowed = bool(variables) if node.op == "RestoreV2" else node.op in library or _is_allowed(node.op)
        if not allowed:
            raise ConfigError(f"the graph has the operation '{node.op[:100]}', which this server does not allow")
        node.device = ""
        for key in list(node.attr):
            if key.startswith("_") or (node.op in _CALLS and key in _SETTINGS):
                del node.attr[key]
    for node in restores:
        node.input[0] = _OWN_VARIABLES + suffix
    if restores:
        _make_text(nodes.add(name=_OWN_VARIABLES), variables)


def _make_placeholder(node: Any) -> None:
    """Replace a node by a placeholder with the same type and shape, as far as they are known."""
    fed = type(node)(name=node.name, op="Placeholder")
    fed.attr["dtype"].type = node.attr["dtype"].type or _FLOAT
    if "shape" in node.attr:
        fed.attr["shape"].CopyFrom(node.attr["shape"])
    node.CopyFrom(fed)


def _make_text(node: Any, text: str) -> None:
    constant = type(node)(name=node.name, op="Const")
    constant.attr["dtype"].type = _STRING
    constant.attr["value"].tensor.dtype = _STRING
    constant.attr["value"].tensor.tensor_shape.SetInParent()
    constant.attr["value"].tensor.string_val.append(text.encode())
    node.CopyFrom(constant)


@cache
def _is_allowed(name: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    defined = op_def_registry.get(name)
    if defined is None or _REFUSED.match(name):
        return False
    return name in _ALLOWED or not (defined.is_stateful or _takes_names(defined))


def _takes_names(defined: Any) -> bool:
    """Return whether an operation has string inputs, outputs or attributes other than a choice of fixed values."""
    strings = any(argument.type == _STRING for argument in (*defined.input_arg, *defined.output_arg))
    return strings or any(
        attribute.type in ("string", "list(string)") and not attribute.allowed_values.list.s
        for attribute in defined.attr
    )
