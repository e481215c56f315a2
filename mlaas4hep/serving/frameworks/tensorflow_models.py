"""SavedModels and frozen graphs, run in a model process in the same way as in the stock TFaaS server.

    saved_model(Path("folder"), "input_name", "output_name", channels=0).run(batch)
    frozen_graph(Path("model.pb"), "input_node", "output_node", channels=0).run(batch)

After `graph_check` has accepted a graph, it is run in a session: tensors are fed and fetched by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlaas4hep.errors import ConfigError, nearest, require
from mlaas4hep.protocol.limits import DEFAULTS
from mlaas4hep.serving.frameworks.graph_check import operation, pruned, reachable
from mlaas4hep.serving.models.tensor import Array, Tensor, describe_input, sizes

STOCK_INPUT, STOCK_OUTPUT = "serving_default_inputs_input", "StatefulPartitionedCall"
"""Names of the tensors that the stock server feeds and fetches in every SavedModel for vectors."""

_HINT = "set input_name and output_name in params.json"
_INIT = ("__saved_model_init_op", "saved_model_main_op", "legacy_init_op")
_TYPES = ("float32", "float64")
Shape = Sequence[object]


class Endpoints(NamedTuple):
    """The names of the tensors that are fed and fetched, as in "inputs:0"."""

    feed: str
    fetch: str


class GraphModel:
    """A checked graph that is ready to run.

    Args:
        graph: a GraphDef.
        ends: names of the input and the output tensor.
        init: operations that are run once, in order, to restore and initialise variables.
        output_shape: shape of the output including the batch dimension; used if the graph does not define it.
        channels: number of image channels, 1 or 3; 0: taken from the graph.
        file: name of the file, for errors.
        most: limit of the number of values per event.

    Raises:
        ConfigError: input or output are not real numbers, or the graph is damaged.
    """

    def __init__(
        self, graph: Any, ends: Endpoints, init: Sequence[str], output_shape: Shape, channels: int, file: str, most: int
    ) -> None:
        tf = require("tensorflow", "keras", "running a TensorFlow model")
        try:
            with tf.Graph().as_default() as built:
                tf.import_graph_def(graph, name="")
            session = tf.compat.v1.Session(graph=built)
            for name in init:
                session.run(built.get_operation_by_name(name))
            feed, fetch = built.get_tensor_by_name(ends.feed), built.get_tensor_by_name(ends.fetch)
            self._run = session.make_callable([fetch], feed_list=[feed])
        except Exception as error:  # TensorFlow raises many types
            raise ConfigError(f"{file} is not a graph that TensorFlow {tf.__version__} can load") from error
        if feed.dtype.name not in _TYPES:
            raise ConfigError(f"the input '{feed.op.name}' of {file} has the type {feed.dtype.name}, not float32")
        self._dtype = feed.dtype.as_numpy_dtype
        shape = feed.shape.as_list() if feed.shape.rank is not None else None
        self.layout = describe_input(feed.op.name, shape, channels, file, most)
        self.takes_one_row = shape is not None and shape[0] == 1
        known = fetch.shape.as_list() if fetch.shape.rank is not None else output_shape
        self.output = Tensor(fetch.op.name, sizes(known[1:]) if known else (None,))

    def run(self, batch: Array) -> Any:
        (output,) = self._run(batch.astype(self._dtype, copy=False))
        return output


def frozen_graph(path: Path, feed: str, fetch: str, channels: int, most: int = DEFAULTS.input_values) -> GraphModel:
    """Load a GraphDef whose variables are constants.

    Args:
        path: the file.
        feed: name of the input; "": the only placeholder.
        fetch: name of the output; "": the only operation whose output is not used.
        channels: number of image channels, 1 or 3; 0: taken from the graph.
        most: limit of the number of values per event.

    Raises:
        ConfigError: the file is not a graph, lacks these operations, or has operations that are not allowed.
    """
    tf = require("tensorflow", "keras", "running a frozen graph")
    graph = _parsed(tf.compat.v1.GraphDef, path)
    nodes = {node.name: node for node in graph.node}
    if not nodes:
        raise ConfigError(f"{path.name} is not a frozen graph of TensorFlow")
    needed = {operation(tensor) for node in graph.node for tensor in node.input}
    inputs = [node.name for node in graph.node if node.op == "Placeholder"]
    outputs = [name for name, node in nodes.items() if name not in needed and node.op not in ("Const", "NoOp")]
    ends = Endpoints(
        _tensor(feed or _only(inputs, "placeholder", "input_node", path.name)),
        _tensor(fetch or _only(outputs, "output", "output_node", path.name)),
    )
    for end, key in ((ends.feed, "input_node"), (ends.fetch, "output_node")):
        if (name := operation(end)) not in nodes:
            raise ConfigError(
                f"{path.name} has no operation '{name[:100]}', the {key} in params.json",
                nearest=nearest(name[:100], nodes),
            )
    if not _depends_only_on_feed(nodes, ends):
        raise ConfigError(f"'{operation(ends.fetch)}' of {path.name} does not depend on '{operation(ends.feed)}' alone")
    safe = pruned(graph, [operation(end) for end in ends], operation(ends.feed))
    return GraphModel(safe, ends, (), (), channels, path.name, most)


def saved_model(folder: Path, feed: str, fetch: str, channels: int, most: int = DEFAULTS.input_values) -> GraphModel:
    """Load the graph of a SavedModel with the tag `serve`, and its variables.

    Three pairs of input and output are tried in turn: the tensors with the names of the stock server, `feed` and
    `fetch` (for images these first, as in the stock server), and those of the signature `serving_default`. The first
    pair is used whose output depends on its input and on no other placeholder.

    Raises:
        ConfigError: the folder is not a SavedModel, lacks these operations, or has operations that are not allowed.
    """
    require("tensorflow", "keras", "running a SavedModel")
    from tensorflow.core.protobuf import saved_model_pb2

    content = _parsed(saved_model_pb2.SavedModel, folder / "saved_model.pb")
    meta = next((one for one in content.meta_graphs if "serve" in one.meta_info_def.tags), None)
    if meta is None:
        raise ConfigError("the SavedModel has no graph with the tag 'serve'")
    nodes = {node.name: node for node in meta.graph_def.node}
    ends = next((ends for ends in _candidates(meta, nodes, feed, fetch) if _depends_only_on_feed(nodes, ends)), None)
    if ends is None:
        raise ConfigError("the SavedModel does not define a single input and a single output", hint=_HINT)
    restore, filename = meta.saver_def.restore_op_name, operation(meta.saver_def.filename_tensor_name)
    init = [operation(name) for name in (restore, *_initialisers(meta)) if name]
    targets = [*(operation(end) for end in ends), *init]
    variables = str(folder / "variables" / "variables")
    safe = pruned(meta.graph_def, targets, operation(ends.feed), variables, filename)
    shape = _signature_shape(meta, ends.fetch)
    return GraphModel(safe, ends, init, shape, channels, "the SavedModel", most)


def _parsed(kind: Any, path: Path) -> Any:
    try:
        return kind.FromString(path.read_bytes())
    except Exception as error:  # DecodeError cannot be named without importing protobuf
        raise ConfigError(f"{path.name} is not a graph of TensorFlow, or is damaged") from error


def _only(names: Sequence[str], what: str, key: str, file: str) -> str:
    if len(names) == 1:
        return names[0]
    listed = ", ".join(name[:100] for name in sorted(names)[:5]) or "none"
    raise ConfigError(f"{file} must have one {what}, and has: {listed}", hint=f"set {key} in params.json")


def _candidates(meta: Any, nodes: Mapping[str, Any], feed: str, fetch: str) -> Iterator[Endpoints]:
    stock, named = Endpoints(_tensor(STOCK_INPUT), _tensor(STOCK_OUTPUT)), Endpoints(_tensor(feed), _tensor(fetch))
    is_image = STOCK_INPUT in nodes and len(nodes[STOCK_INPUT].attr["shape"].shape.dim) == 4
    yield from (named, stock) if is_image else (stock, named)
    signature = meta.signature_def.get("serving_default")
    if signature is not None and len(signature.inputs) == len(signature.outputs) == 1:
        (source,), (result,) = signature.inputs.values(), signature.outputs.values()
        yield Endpoints(source.name, result.name)


def _depends_only_on_feed(nodes: Mapping[str, Any], ends: Endpoints) -> bool:
    """Return whether the fetched tensor depends on the fed tensor, and on no other placeholder."""
    feed, fetch = operation(ends.feed), operation(ends.fetch)
    if feed not in nodes or fetch not in nodes:
        return False
    needed = reachable(nodes, [fetch], stop=(feed,))
    return feed in needed and not any(nodes[name].op == "Placeholder" for name in needed - {feed})


def _initialisers(meta: Any) -> Iterator[str]:
    """Yield the operations that initialise resources such as tables; a SavedModel uses one of three keys for them."""
    for key in _INIT:
        if key in meta.signature_def:
            yield meta.signature_def[key].outputs[key].name
        elif key in meta.collection_def:
            yield from meta.collection_def[key].node_list.value


def _signature_shape(meta: Any, fetch: str) -> Shape:
    for signature in meta.signature_def.values():
        for output in signature.outputs.values():
            if output.name == fetch and not output.tensor_shape.unknown_rank:
                return [dimension.size for dimension in output.tensor_shape.dim]
    return ()


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
