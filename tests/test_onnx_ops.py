"""Each ONNX op, converted to TensorFlow, compared with ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.errors import ConfigError

tf = pytest.importorskip("tensorflow")
from mlaas4hep.onnx_to_tf.interpreter import STANDARD_OPS, Interpreter  # noqa: E402  needs TensorFlow
from mlaas4hep.onnx_to_tf.trees import OPS as ML  # noqa: E402

TYPES = {np.dtype("f4"): TensorProto.FLOAT, np.dtype("f8"): TensorProto.DOUBLE, np.dtype("i8"): TensorProto.INT64,
         np.dtype("i4"): TensorProto.INT32, np.dtype("?"): TensorProto.BOOL}  # fmt: skip


def onnx_scores(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"inputs": x})[0]


def graph_of(nodes, x, constants, opset=18):
    """Return a model of some nodes; its input `inputs` has the shape of x, with any number of events."""
    slot = helper.make_tensor_value_info("inputs", TYPES[x.dtype], ["events", *x.shape[1:]])
    out = onnx.ValueInfoProto(name="scores")
    graph = helper.make_graph(
        nodes, "graph", [slot], [out], [numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def interpreted(model, x):
    """Convert a model for any number of events, and run it in TensorFlow."""
    interpreter = Interpreter(model)
    signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype)]
    run = tf.function(lambda inputs: interpreter.run(inputs, tf.constant), signature, autograph=False)
    return run.get_concrete_function()(tf.constant(x)).numpy()


RNG = np.random.default_rng(7)
ODD = np.array([[np.nan, np.inf, -np.inf, 0.0, 3e38], [-3e38, 1e-30, 0.5, -0.5, 2.5]], np.float32)


def floats(*shape):
    return RNG.normal(0, 2, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def case(op, *inputs, x=None, outputs=1, opset=18, domain="", name="", **options):
    """Return a test case of one node; the first input is `inputs` if x is given, the others are constants."""
    return pytest.param(op, x, inputs, outputs, opset, domain, options, id=f"{op} {name}".strip())


ROWS, LIST, IMAGE = floats(7, 6), floats(7, 3, 9), floats(7, 4, 8, 9)
FLAGS, WHOLE = RNG.uniform(size=(7, 6)) > 0.5, RNG.integers(-5, 6, (7, 6))
ELEMENTWISE = [
    "Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "IsInf",
    "IsNaN", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Log", "Sqrt", "Sinh", "Cosh", "Tan", "Acos", "Asin", "Acosh",
    "Atanh",
]  # fmt: skip
CASES = [
    *(case(op, x=ODD if op not in ("Log", "Sqrt", "Acosh") else np.abs(ODD)) for op in ELEMENTWISE),
    *(case(op, floats(6), x=ROWS) for op in ("Add", "Sub", "Mul", "Div", "PRelu")),
    *(case(op, np.array([0, np.nan, 1, -np.inf, 2], "f4"), x=ODD) for op in ("Max", "Min", "Greater", "Less", "Equal",
                                                                          "GreaterOrEqual", "LessOrEqual")),
    *(case(op, np.array([True, False, True, True, False, False]), x=FLAGS) for op in ("And", "Or", "Xor")),
    case("Not", x=FLAGS),
    case("Mean", floats(6), floats(1, 6), x=ROWS),
    case("Sum", floats(6), floats(1, 6), x=ROWS),
    case("Div", ints(3, -3, 2, 5, -4, 1), x=WHOLE, name="whole"),
    case("Mod", ints(3, -3, 2, 5, -4, 1), x=WHOLE),
    case("Mod", np.float32(1.5), x=ROWS, name="fmod", fmod=1),
    case("Pow", np.float32(3), x=ROWS),
    case("Pow", ints(2), x=ROWS, name="whole"),
    case("Clip", np.float32(-1), np.float32(1), x=ODD),
    case("Clip", None, np.float32(1), x=ODD, name="high"),
    case("IsInf", x=ODD, name="negative", detect_positive=0),
    case("Gelu", x=ROWS, opset=20),
    case("Gelu", x=ROWS, opset=20, name="tanh", approximate="tanh"),
    case("Swish", x=ROWS, opset=24, alpha=0.7),
    case("Elu", x=ROWS, name="alpha", alpha=0.3),
    case("Celu", x=ROWS, name="alpha", alpha=0.3),
    case("Cast", x=ODD[:, 3:], name="bool", to=TensorProto.BOOL),
    case("Cast", x=ROWS, name="whole", to=TensorProto.INT64),
    case("CastLike", ints(1), x=ROWS),
    case("Softmax", x=LIST),
    case("Softmax", x=LIST, name="axis", axis=1),
    case("LogSoftmax", x=LIST, name="axis", axis=1),
    case("Hardmax", x=LIST),
    case("CumSum", ints(1), x=LIST),
    case("CumSum", np.array(-1), x=LIST, name="reverse", reverse=1, exclusive=1),
    *(case(op, ints(1, -1), x=np.abs(LIST), name="two axes") for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare")),
    case("ReduceMean", x=LIST, opset=13, name="attribute", axes=[2], keepdims=0),
    case("ReduceSum", ints(), x=LIST, name="nothing", noop_with_empty_axes=1),
    case("ReduceMax", x=LIST, name="all"),
    case("ArgMax", x=LIST, axis=2, keepdims=0),
    case("ArgMin", x=WHOLE, name="last", axis=1, select_last_index=1),
    case("ArgMax", x=WHOLE, name="first", axis=1),
    case("Concat", floats(7, 1, 9), x=LIST, axis=1),
    case("DepthToSpace", x=IMAGE, blocksize=2),
    case("DepthToSpace", x=IMAGE, name="crd", blocksize=2, mode="CRD"),
    case("Dropout", x=ROWS),
    case("Expand", ints(2, 1, 3, 1), x=LIST),
    case("Flatten", x=IMAGE, axis=2),
    case("Gather", ints(0, -1, 2), x=LIST, axis=2),
    case("Gather", np.array(-2), x=LIST, name="one", axis=1),
    case("GatherElements", RNG.integers(-9, 9, (7, 3, 4)), x=LIST, axis=2),
    case("GatherElements", RNG.integers(0, 3, (5, 2, 9)), x=LIST, name="fewer", axis=1),
    case("GatherND", np.array([[[0], [-1]]] * 7), x=LIST, batch_dims=1),
    case("Identity", x=ROWS),
    case("NonZero", x=WHOLE),
    case("OneHot", ints(4), floats(2), x=WHOLE),
    case("Pad", ints(0, 1, 2, 0, 0, 1), np.float32(9), x=LIST),
    case("Pad", ints(0, -1, 2, 0, 0, -1), x=LIST, name="cut"),
    case("Pad", ints(2, 1), None, ints(2), x=LIST, name="reflect", mode="reflect"),
    case("Pad", ints(0, 0, 2, 0, 0, 1), x=LIST, name="edge", mode="edge"),
    case("Reshape", ints(0, -1), x=LIST),
    case("Reshape", ints(-1, 3, 3, 3), x=LIST, name="more"),
    case("ScatterElements", np.argsort(LIST)[..., :2], floats(7, 3, 2), x=LIST, axis=2),
    case("ScatterND", np.array([[0, 1], [6, -1]]), floats(2, 9), x=LIST),
    case("ScatterND", np.array([[0, 1], [0, 1]]), floats(2, 9), x=LIST, name="add", reduction="add"),
    case("Shape", x=LIST),
    case("Shape", x=LIST, name="part", start=1, end=-1),
    case("Size", x=LIST),
    case("Slice", ints(1, -3), ints(2**62, -1), ints(0, 2), x=LIST),
    case("Slice", ints(-1), ints(-(2**62)), ints(2), ints(-2), x=LIST, name="backward"),
    case("Split", ints(1, 5), x=ROWS, outputs=2, axis=1),
    case("Split", x=LIST, outputs=2, name="equal", axis=2, num_outputs=2),
    case("Squeeze", ints(1), x=floats(7, 1, 1, 3)),
    case("Tile", ints(1, 2, 1), x=LIST),
    case("TopK", ints(3), x=WHOLE.astype("f4"), outputs=2),
    case("TopK", ints(2), x=LIST, outputs=2, name="smallest", axis=1, largest=0),
    case("Transpose", x=LIST, perm=[2, 0, 1]),
    case("Trilu", x=LIST),
    case("Trilu", np.array(-1), x=LIST, name="lower", upper=0),
    case("Unsqueeze", ints(-1, 1), x=ROWS),
    case("Where", floats(6), floats(1, 6), x=FLAGS),
    case("MatMul", floats(9, 4), x=LIST),
    case("MatMul", floats(9), x=LIST, name="vector"),
    case("MatMul", floats(2, 1, 9, 4), x=LIST, name="broadcast"),
    case("Gemm", floats(4, 6), floats(4), x=ROWS, alpha=0.5, beta=2.0, transB=1),
    case("Einsum", floats(9, 2), x=LIST, equation="bij, jk -> bik"),
    case("Conv", floats(5, 3, 3), floats(5), x=LIST, pads=[2, 1], strides=[2]),
    case("Conv", floats(8, 2, 3, 2), x=IMAGE, name="groups", group=2, dilations=[2, 1], pads=[1, 0, 2, 1]),
    case("Conv", floats(8, 1, 3, 3), floats(8), x=IMAGE, name="depthwise", group=4, strides=[2, 3],
         auto_pad="SAME_UPPER"),
    case("Conv", floats(6, 1, 3), x=LIST, name="depthwise 1d", group=3, dilations=[2]),
    case("Conv", floats(5, 2, 2, 2, 2), x=floats(7, 2, 4, 5, 4), name="3d", auto_pad="SAME_LOWER"),
    case("ConvTranspose", floats(3, 5, 3), floats(5), x=LIST, strides=[2], pads=[1, 0], output_padding=[1]),
    case("ConvTranspose", floats(4, 3, 3, 2), x=IMAGE, name="groups", group=2, strides=[2, 3], dilations=[2, 1]),
    case("ConvTranspose", floats(4, 3, 2, 2), x=IMAGE, name="same", strides=[3, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", floats(4, 3, 1, 1), x=IMAGE, name="cut", strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", x=LIST, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("MaxPool", x=IMAGE, name="ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, dilations=[1, 2]),
    case("MaxPool", x=IMAGE, name="ceil and pads", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1]),
    case("MaxPool", x=IMAGE, name="same", kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_LOWER"),
    *(case("AveragePool", x=IMAGE, opset=19, name=f"{count} {ceil}", kernel_shape=[3, 2], strides=[2, 3],
           pads=[1, 1, 1, 0], count_include_pad=count, ceil_mode=ceil) for count in (0, 1) for ceil in (0, 1)),
    case("AveragePool", x=IMAGE, name="same", kernel_shape=[3, 4], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("GlobalAveragePool", x=IMAGE),
    case("GlobalMaxPool", x=LIST),
    case("BatchNormalization", floats(4), floats(4), floats(4), np.abs(floats(4)), x=IMAGE, epsilon=1e-2),
    case("LayerNormalization", floats(9), floats(9), x=LIST),
    case("LayerNormalization", floats(3, 9), x=LIST, outputs=3, name="all", axis=1, epsilon=0.1),
    case("InstanceNormalization", floats(4), floats(4), x=IMAGE, epsilon=0.1),
    case("GroupNormalization", floats(4), floats(4), x=IMAGE, opset=21, num_groups=2),
    case("GroupNormalization", floats(2), floats(2), x=IMAGE, name="older", num_groups=2),
    case("RMSNormalization", floats(9), x=LIST, opset=23),
    case("LpNormalization", x=LIST, axis=1),
    case("LpNormalization", x=LIST, name="1", p=1),
    *(case("Resize", None, None, ints(7, 4, 13, 5), x=IMAGE, name=f"{mode} {way}", mode=mode,
           coordinate_transformation_mode=way) for mode in ("nearest", "linear")
      for way in ("half_pixel", "asymmetric", "align_corners")),
    case("Resize", None, np.array([1, 1, 2, 3], "f4"), x=IMAGE, name="scales", mode="nearest", nearest_mode="floor",
         coordinate_transformation_mode="asymmetric"),
    *(case(op, floats(2, gates * 4, 6), floats(2, gates * 4, 4), floats(2, gates * 8), x=floats(3, 5, 6), outputs=2,
           name="both ways", hidden_size=4, direction="bidirectional")
      for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))),
    *(case(op, floats(1, gates * 4, 6), floats(1, gates * 4, 4), floats(1, gates * 8), np.array([2, 5, 0], "i4"),
           floats(1, 3, 4), x=floats(3, 5, 6), outputs=3 if op == "LSTM" else 2, name=f"lengths, {way}", hidden_size=4,
           direction=way, **more)
      for op, gates, more in (("LSTM", 4, {}), ("GRU", 3, {"linear_before_reset": 1}),
                              ("RNN", 1, {"activations": ["Relu"]})) for way in ("forward", "reverse")),
    case("Scaler", x=ROWS, domain="ai.onnx.ml", offset=[1.0, 2, 3, 4, 5, 6], scale=[2.0] * 6),
    case("Scaler", x=ROWS, domain="ai.onnx.ml", name="one", offset=[1.0], scale=[2.0]),
    *(case("Normalizer", x=ROWS, domain="ai.onnx.ml", name=norm, norm=norm) for norm in ("MAX", "L1", "L2")),
    case("Imputer", x=ODD, domain="ai.onnx.ml", imputed_value_floats=[1.0, 2, 3, 4, 5], replaced_value_float=np.nan),
    case("Binarizer", x=ROWS, domain="ai.onnx.ml", threshold=0.5),
    case("ArrayFeatureExtractor", ints(4, 1), x=ROWS, domain="ai.onnx.ml"),
    case("OneHotEncoder", x=WHOLE, domain="ai.onnx.ml", cats_int64s=[3, -1, 0]),
    *(case("LinearRegressor", x=ROWS, domain="ai.onnx.ml", name=f"{count} {post}", targets=count, post_transform=post,
           coefficients=floats(count * 6).tolist(), intercepts=floats(count).tolist())
      for count in (1, 2) for post in ("NONE", "LOGISTIC", "SOFTMAX")),
    *(case("LinearClassifier", x=ROWS, outputs=2, domain="ai.onnx.ml", name=f"{rows} {post}", post_transform=post,
           coefficients=floats(rows * 6).tolist(), intercepts=floats(rows).tolist(),
           classlabels_ints=list(range(max(2, rows)))) for rows in (1, 2, 3)
      for post in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")),
]  # fmt: skip


@pytest.mark.parametrize(("op", "x", "inputs", "outputs", "opset", "domain", "options"), CASES)
def test_an_op_gives_the_result_of_onnx_runtime(op, x, inputs, outputs, opset, domain, options):
    constants = {f"c{index}": np.asarray(value) for index, value in enumerate(inputs) if value is not None}
    names = [f"c{index}" if value is not None else "" for index, value in enumerate(inputs)]
    for wanted in range(outputs):
        results = [f"out{index}" if index != wanted else "scores" for index in range(outputs)]
        first, before = "inputs", []
        if op in ("LSTM", "GRU", "RNN"):  # the second dimension is the events
            first, before = "turned", [helper.make_node("Transpose", ["inputs"], ["turned"], perm=[1, 0, 2])]
        node = helper.make_node(op, [first, *names], results, domain=domain, **options)
        model = graph_of([*before, node], x, constants, opset=opset)
        found, truth = interpreted(model, x), onnx_scores(model, x)
        assert found.dtype == truth.dtype
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5)


def test_every_op_is_tested():
    """Ops without inputs, and trees, have separate tests."""
    others = {"Constant", "ConstantOfShape", "FeatureVectorizer", "Range", "TreeEnsembleClassifier",
              "TreeEnsembleRegressor"}  # fmt: skip
    assert {one.values[0] for one in CASES} | others == set(STANDARD_OPS) | set(ML)


def grow(rng, modes, trees=4, depth=4):
    """Return the attributes of an ensemble of random trees (six columns, integer thresholds), and its leaves."""
    rows, leaves = [], []
    for tree in range(trees):
        waiting, count = [(0, 0)], 1
        while waiting:
            place, level = waiting.pop()
            if level and (level == depth or rng.uniform() < 0.3):
                rows.append((tree, place, 0, 0.0, "LEAF", 0, 0, 0))
                leaves.append((tree, place))
            else:
                ask = int(rng.integers(6)), float(rng.integers(-3, 4)), str(rng.choice(modes))
                rows.append((tree, place, *ask, count, count + 1, int(rng.integers(2))))
                waiting += [(count, level + 1), (count + 1, level + 1)]
                count += 2
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
             "missing_value_tracks_true")  # fmt: skip
    return {f"nodes_{name}": list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}, leaves


def weights(rng, leaves, role, targets, sign=0):
    """Return weights of leaves, of both signs or of one sign."""
    rows = [(tree, node, target) for tree, node in leaves for target in targets]
    size = rng.uniform(0.05, 0.3, len(rows)) * (sign or rng.choice([-1, 1], len(rows)))
    names = (f"{role}_treeids", f"{role}_nodeids", f"{role}_ids")
    found = {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return found | {f"{role}_weights": size.tolist()}


MODES = {"LEQ": ["BRANCH_LEQ"], "LT": ["BRANCH_LT"],
         "all": [f"BRANCH_{mode}" for mode in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]}  # fmt: skip


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize(
    ("targets", "classes", "sign", "base", "post"),
    [
        *(((0,), 2, sign, base, post) for sign in (-1, 0, 1) for base in (0, 1) for post in ("NONE", "LOGISTIC")),
        *(((0, 1), 2, 0, 0, post) for post in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")),
        ((1,), 2, 1, 0, "NONE"),
        *(((0, 1, 2), 3, 0, base, post) for base in (0, 3) for post in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")),
    ],
)
def test_tree_classifiers_give_the_result_of_onnx_runtime(targets, classes, sign, base, post, modes):
    rng = np.random.default_rng([classes, base])
    options, leaves = grow(rng, MODES[modes])
    options |= weights(rng, leaves, "class", targets, sign)
    options |= {"classlabels_int64s": list(range(classes)), "post_transform": post}
    if base:
        options["base_values"] = rng.normal(size=base).tolist()
    check_trees(rng, "TreeEnsembleClassifier", ["label", "scores"], options)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("how", ["SUM", "AVERAGE"])
def test_tree_regressors_give_the_result_of_onnx_runtime(how, targets, modes):
    rng = np.random.default_rng(targets)
    options, leaves = grow(rng, MODES[modes])
    options |= weights(rng, leaves, "target", range(targets))
    options |= {"n_targets": targets, "aggregate_function": how, "base_values": [0.5] * targets}
    check_trees(rng, "TreeEnsembleRegressor", ["scores"], options)


def check_trees(rng, op, outputs, options):
    x = rng.normal(0, 2, (200, 6)).round().astype(np.float32)  # many values are equal to a threshold
    x[rng.uniform(size=x.shape) < 0.15] = np.nan
    model = graph_of([helper.make_node(op, ["inputs"], outputs, domain="ai.onnx.ml", **options)], x, {})
    np.testing.assert_allclose(interpreted(model, x), onnx_scores(model, x), atol=1e-6)


def test_shapes_can_be_used_in_computations():
    """Reshape (n, 3, 9) to (n, 9, 3) by a shape that is computed from the input's shape."""
    nodes = [
        helper.make_node("Shape", ["inputs"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["events"]),
        helper.make_node("Unsqueeze", ["events", "axis"], ["first"]),
        helper.make_node("Slice", ["shape", "axis", "end"], ["channels"]),  # the second dimension
        helper.make_node("Cast", ["channels"], ["narrow"], to=TensorProto.INT32),
        helper.make_node("Cast", ["narrow"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Concat", ["wide", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["inputs", "wanted"], ["turned"]),
        helper.make_node("Squeeze", ["first", "axis"], ["number"]),
        helper.make_node("Range", ["zero", "number", "one"], ["counted"]),
        helper.make_node("ConstantOfShape", ["wanted"], ["filled"], value=helper.make_tensor("", 1, [1], [0.5])),
        helper.make_node("Constant", [], ["thin"], value_ints=[-1, 1, 1]),
        helper.make_node("Reshape", ["counted", "thin"], ["column"]),
        helper.make_node("Cast", ["column"], ["added"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["turned", "filled", "added"], ["scores"]),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "axis": ints(0), "end": ints(1), "rest": ints(9, 3)}
    model = graph_of(nodes, LIST, constants)
    np.testing.assert_allclose(interpreted(model, LIST), onnx_scores(model, LIST), rtol=1e-6)


def test_feature_vectorizer_concatenates_vectors():
    nodes = [helper.make_node("FeatureVectorizer", ["inputs", "inputs"], ["scores"], domain="ai.onnx.ml",
                              inputdimensions=[6, 6])]  # fmt: skip
    model = graph_of(nodes, ROWS, {})
    np.testing.assert_array_equal(interpreted(model, ROWS), onnx_scores(model, ROWS))


def loop(condition):
    """Return a model with a Loop: five iterations of x = x · 0.5 + i, or fewer; outputs: the last x, and all x."""
    slots = [helper.make_tensor_value_info("round", TensorProto.INT64, []),
             helper.make_tensor_value_info("before", TensorProto.BOOL, []),
             helper.make_tensor_value_info("state", TensorProto.FLOAT, None)]  # fmt: skip
    outputs = [helper.make_tensor_value_info("again", TensorProto.BOOL, []), onnx.ValueInfoProto(name="next"),
               onnx.ValueInfoProto(name="kept")]  # fmt: skip
    body = helper.make_graph(
        [
            *condition,
            helper.make_node("Cast", ["round"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["state", "half"], ["halved"]),
            helper.make_node("Add", ["halved", "number"], ["next"]),
            helper.make_node("Identity", ["next"], ["kept"]),
        ],
        "body", slots, outputs,
    )  # fmt: skip
    node = helper.make_node("Loop", ["rounds", "yes", "inputs"], ["last", "scores"], body=body)
    constants = {"rounds": np.array(5), "yes": np.array(True), "half": np.array([0.5], "f4"), "three": np.array(3)}
    return graph_of([node], ROWS, constants)


@pytest.mark.parametrize("kind", ["Identity", "Less"])
def test_a_loop_is_unrolled(kind):
    model = loop([helper.make_node(kind, ["before"] if kind == "Identity" else ["round", "three"], ["again"])])
    found = interpreted(model, ROWS)
    assert len(found) == (5 if kind == "Identity" else 4)
    np.testing.assert_allclose(found, onnx_scores(model, ROWS), rtol=1e-6)


def test_a_loop_whose_length_depends_on_the_events_is_refused():
    nodes = [helper.make_node("ReduceMax", ["state"], ["top"], keepdims=0),
             helper.make_node("Greater", ["top", "half"], ["above"]),
             helper.make_node("Squeeze", ["above"], ["again"])]  # fmt: skip
    with pytest.raises(ConfigError, match="the ONNX op Loop cannot be converted to TensorFlow: ValueError: the cond"):
        interpreted(loop(nodes), ROWS)


@pytest.mark.parametrize("yes", [True, False])
def test_an_if_with_a_constant_condition_is_resolved(yes):
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["inputs"], ["out"])], name, [], [onnx.ValueInfoProto(name="out")]
        )
        for name, op in (("then_branch", "Neg"), ("else_branch", "Exp"))
    }
    model = graph_of([helper.make_node("If", ["yes"], ["scores"], **branches)], ROWS, {"yes": np.array(yes)})
    np.testing.assert_allclose(interpreted(model, ROWS), -ROWS if yes else np.exp(ROWS), rtol=1e-6)


def test_functions_of_a_model_are_inlined():
    node = helper.make_node("Twice", ["inputs"], ["scores"], domain="mine")
    model = graph_of([node], ROWS, {})
    inner = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], inner, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    np.testing.assert_array_equal(interpreted(model, ROWS), 2 * ROWS)


def test_an_unsupported_attribute_of_an_op_is_reported_in_one_line():
    node = helper.make_node("Resize", ["inputs", "", "", "sizes"], ["scores"], mode="cubic")
    model = graph_of([node], IMAGE, {"sizes": ints(7, 4, 16, 18)})
    with pytest.raises(ConfigError) as caught:
        interpreted(model, IMAGE)
    assert str(caught.value) == (
        "the ONNX op Resize cannot be converted to TensorFlow: ValueError: the mode 'cubic' is not supported"
    )


def test_a_graph_of_an_old_opset_is_refused():
    model = graph_of([helper.make_node("Relu", ["inputs"], ["scores"])], ROWS, {}, opset=11)
    with pytest.raises(ConfigError, match="has opset 11, which is not supported; export it with opset 13 or newer"):
        Interpreter(model)
