"""SavedModels and frozen graphs, in the process that `model_process` starts, run as the stock TFaaS server runs them.

    saved_model(Path("folder"), "input_name", "output_name", channels=0).run(batch)
    frozen_graph(Path("model.pb"), "input_node", "output_node", channels=0).run(batch)

Graphs are fed and fetched by the names of operations in a session, once `graph_check` let them pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlaas4hep.errors import ConfigError, nearest, require
from mlaas4hep.serving.graph_check import operation, pruned, reachable
from mlaas4hep.serving.tensor import Array, Tensor, describe_input, sizes

STOCK_INPUT, STOCK_OUTPUT = "serving_default_inputs_input", "StatefulPartitionedCall"
"""What the stock server feeds and fetches of every SavedModel for vectors."""

_HINT = "params.json may name them: input_name and output_name"
_INIT = ("__saved_model_init_op", "saved_model_main_op", "legacy_init_op")
_TYPES = ("float32", "float64")


class Ends(NamedTuple):
    """The tensors that are fed and fetched, as in "inputs:0"."""

    feed: str
    fetch: str


class GraphModel:
    """A graph that was checked and is ready to run.

    Args:
        graph: a GraphDef.
        ends: what is fed and fetched.
        first: operations that are run once, in order, to restore and to initialise variables.
        output_shape: with the events in front, where the graph itself may not say it.
        channels: of images, 1 or 3; 0: as the graph says.
        file: named in errors.

    Raises:
        ConfigError: it does not take or give real numbers, or is damaged.
    """

    def __init__(
        self, graph: Any, ends: Ends, first: Sequence[str], output_shape: Sequence[object], channels: int, file: str
    ) -> None:
        tf = require("tensorflow", "keras", "running a TensorFlow model")
        try:
            with tf.Graph().as_default() as built:
                tf.import_graph_def(graph, name="")
            session = tf.compat.v1.Session(graph=built)
            for name in first:
                session.run(built.get_operation_by_name(name))
            feed, fetch = built.get_tensor_by_name(ends.feed), built.get_tensor_by_name(ends.fetch)
            self._run = session.make_callable([fetch], feed_list=[feed])
        except Exception as error:  # TensorFlow raises many kinds
            raise ConfigError(f"{file} is no graph that TensorFlow {tf.__version__} can load") from error
        if feed.dtype.name not in _TYPES:
            raise ConfigError(f"the input '{feed.op.name}' of {file} is of type {feed.dtype.name}, not float32")
        self._dtype = feed.dtype.as_numpy_dtype
        shape = feed.shape.as_list() if feed.shape.rank is not None else None
        self.layout = describe_input(feed.op.name, shape, channels, file)
        self.takes_one_row = shape is not None and shape[0] == 1
        known = fetch.shape.as_list() if fetch.shape.rank is not None else output_shape
        self.output = Tensor(fetch.op.name, sizes(known[1:]) if known else (None,))

    def run(self, batch: Array) -> Any:
        (output,) = self._run(batch.astype(self._dtype, copy=False))
        return output


def frozen_graph(path: Path, feed: str, fetch: str, channels: int) -> GraphModel:
    """Load a GraphDef whose variables are constants.

    Args:
        path: the file.
        feed: name of the input; "": the only placeholder.
        fetch: name of the output; "": the only operation that no other needs.
        channels: of images, 1 or 3; 0: as the graph says.

    Raises:
        ConfigError: it is none, or has no such operations, or others than are run here.
    """
    tf = require("tensorflow", "keras", "running a frozen graph")
    graph = _parsed(tf.compat.v1.GraphDef, path)
    nodes = {node.name: node for node in graph.node}
    if not nodes:
        raise ConfigError(f"{path.name} is no frozen graph of TensorFlow")
    needed = {operation(tensor) for node in graph.node for tensor in node.input}
    inputs = [node.name for node in graph.node if node.op == "Placeholder"]
    outputs = [name for name, node in nodes.items() if name not in needed and node.op not in ("Const", "NoOp")]
    ends = Ends(
        _tensor(feed or _only(inputs, "placeholder", "input_node", path.name)),
        _tensor(fetch or _only(outputs, "output", "output_node", path.name)),
    )
    for end, key in ((ends.feed, "input_node"), (ends.fetch, "output_node")):
        if (name := operation(end)) not in nodes:
            raise ConfigError(
                f"{path.name} has no operation '{name[:100]}', which params.json has as {key}",
                nearest=nearest(name[:100], nodes),
            )
    if not _computes(nodes, ends):
        raise ConfigError(f"'{operation(ends.fetch)}' of {path.name} does not follow from '{operation(ends.feed)}'")
    safe = pruned(graph, [operation(end) for end in ends], operation(ends.feed))
    return GraphModel(safe, ends, (), (), channels, path.name)


def saved_model(folder: Path, feed: str, fetch: str, channels: int) -> GraphModel:
    """Load the graph of a SavedModel that is tagged `serve`, with its variables.

    It is fed and fetched by the names of the stock server if it has them and they belong together, else by those that
    are given (of images the other way round, as there), else by those of its signature `serving_default`.

    Raises:
        ConfigError: it is none, or has no such operations, or others than are run here.
    """
    require("tensorflow", "keras", "running a SavedModel")
    from tensorflow.core.protobuf import saved_model_pb2

    content = _parsed(saved_model_pb2.SavedModel, folder / "saved_model.pb")
    meta = next((one for one in content.meta_graphs if "serve" in one.meta_info_def.tags), None)
    if meta is None:
        raise ConfigError("the SavedModel has no graph with the tag 'serve'")
    nodes = {node.name: node for node in meta.graph_def.node}
    ends = next((ends for ends in _candidates(meta, nodes, feed, fetch) if _computes(nodes, ends)), None)
    if ends is None:
        raise ConfigError("the SavedModel does not say what is its one input and its one output", hint=_HINT)
    restore, filename = meta.saver_def.restore_op_name, operation(meta.saver_def.filename_tensor_name)
    first = [operation(name) for name in (restore, *_initialisers(meta)) if name]
    targets = [*(operation(end) for end in ends), *first]
    variables = str(folder / "variables" / "variables")
    safe = pruned(meta.graph_def, targets, operation(ends.feed), variables, filename)
    return GraphModel(safe, ends, first, _signature_shape(meta, ends.fetch), channels, "the SavedModel")


def _parsed(kind: Any, path: Path) -> Any:
    try:
        return kind.FromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has no base that can be named without importing it
        raise ConfigError(f"{path.name} is no graph of TensorFlow, or is damaged") from error


def _only(names: Sequence[str], what: str, key: str, file: str) -> str:
    if len(names) == 1:
        return names[0]
    there = ", ".join(name[:100] for name in sorted(names)[:5]) or "none"
    raise ConfigError(f"{file} has not one {what} but: {there}", hint=f"say in params.json which is {key}")


def _candidates(meta: Any, nodes: Mapping[str, Any], feed: str, fetch: str) -> Iterator[Ends]:
    stock, named = Ends(_tensor(STOCK_INPUT), _tensor(STOCK_OUTPUT)), Ends(_tensor(feed), _tensor(fetch))
    is_image = STOCK_INPUT in nodes and len(nodes[STOCK_INPUT].attr["shape"].shape.dim) == 4
    yield from (named, stock) if is_image else (stock, named)
    signature = meta.signature_def.get("serving_default")
    if signature is not None and len(signature.inputs) == len(signature.outputs) == 1:
        (taken,), (given,) = signature.inputs.values(), signature.outputs.values()
        yield Ends(taken.name, given.name)


def _computes(nodes: Mapping[str, Any], ends: Ends) -> bool:
    """Say whether what is fetched needs what is fed, and nothing else that would have to be fed."""
    feed, fetch = operation(ends.feed), operation(ends.fetch)
    if feed not in nodes or fetch not in nodes:
        return False
    needed = reachable(nodes, [fetch], stop=(feed,))
    return feed in needed and not any(nodes[name].op == "Placeholder" for name in needed - {feed})


def _initialisers(meta: Any) -> Iterator[str]:
    """Yield the operation that sets up what is no variable, if there is one; there are three ways to say it."""
    for key in _INIT:
        if key in meta.signature_def:
            yield meta.signature_def[key].outputs[key].name
        elif key in meta.collection_def:
            yield from meta.collection_def[key].node_list.value


def _signature_shape(meta: Any, fetch: str) -> Sequence[object]:
    for signature in meta.signature_def.values():
        for given in signature.outputs.values():
            if given.name == fetch and not given.tensor_shape.unknown_rank:
                return [one.size for one in given.tensor_shape.dim]
    return ()


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
