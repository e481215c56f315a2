"""Write the valid inputs from which the fuzzing starts, tests/corpus/TARGET/seed-NAME.

PYTHONPATH=tests python -m fuzz.seeds      # needs all optional packages; existing seeds are replaced
"""

from __future__ import annotations

import base64
import io
import json
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

CORPUS = Path(__file__).parents[1] / "corpus"
EVENTS = 30


def main() -> None:
    """Write all seeds."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = {
            **_requests(),
            **_uploads(Path(folder)),
            **_root_files(Path(folder)),
            **_tables(Path(folder)),
            **_answers(),
            **_descriptions(Path(folder)),
        }
    for target, several in seeds.items():
        for name, content in several.items():
            path = CORPUS / target / f"seed-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _requests() -> dict[str, dict[str, bytes]]:
    rows = b'{"keys": ["MET_pt", "MET_phi", "Muon_pt"], "values": [2, 1.5e0, [3, null]], "model": "htautau"}'
    host = b"Host: localhost\r\n"
    chunked = b"POST /json HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n" + rows[:5]
    chunked += b"\r\n%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(rows) - 5, rows[5:])
    post = b"POST /json HTTP/1.1\r\n" + host + b"Content-Length: %d\r\n\r\n%b" % (len(rows), rows)
    numbers = np.array([1, 2, 3, 4, 5], "<f4").tobytes()
    tensor = {"name": "inputs", "shape": [1, 5], "datatype": "FP32"}
    binary = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 20}}],
                         "parameters": {"binary_data_output": True}}).encode()  # fmt: skip
    columns = ["Muon_pt_0", "Muon_pt_1", "Muon_pt_2", "MET_pt", "MET_phi"]
    key = b"".join(b"\x0a%c%b" % (len(name), name.encode()) for name in columns)
    return {
        "http": {
            "get": b"GET /models HTTP/1.1\r\n" + host + b"X-Request-ID: a-1\r\n\r\n",
            "pipelined": post + post + b"GET /v2 HTTP/1.0\r\n\r\n",
            "chunked": chunked,
            "expect": post.replace(b"\r\nContent", b"\r\nExpect: 100-continue\r\nConnection: close\r\nContent"),
            "upgrade": b"GET / HTTP/1.1\r\n" + host + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "params": b"GET /params/htautau?x=%41 HTTP/1.1\r\n" + host + b"\r\n",
            "delete": b"DELETE /delete/none HTTP/1.1\r\n" + host + b"Authorization: Bearer x\r\n\r\n",
        },
        "json_rows": {
            "row": rows,
            "rows": rows.replace(b"[2, 1.5e0, [3, null]]", b"[[2, 1, [3]], [2, null, []]]"),
            "plain": b'{"values": [[1, 2, 3, 4, 5], [1, 2, 3, 4, 1e30]], "model": "plain"}',
            "columns": json.dumps({"keys": columns, "values": [1, 2, 3, 4, 5], "model": "htautau"}).encode(),
        },
        "json_bodies": {"ready": b'{"ready": true}', "name": b'{"name": "htautau", "labels": [1, "\\u00e9"]}'},
        "protobuf": {
            "row": key + b"\x12\x14" + numbers + b"\x1a\x07htautau",
            "values": b"\x12\x14" + numbers + b"\x1a\x05plain",
            "unpacked": b"".join(b"\x15" + numbers[at : at + 4] for at in range(0, 20, 4)) + b"\x1a\x05plain",
        },
        "oip": {
            "json": json.dumps({"id": "a", "inputs": [{**tensor, "data": [1, 2.5, None, 4, 5]}]}).encode(),
            "nested": json.dumps({"inputs": [{**tensor, "datatype": "INT8", "data": [[1, 2, 3, 4, 5]]}],
                                  "outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}).encode(),
            "binary": binary + b"\0" + numbers,
        },
        "grpc": _grpc_requests(numbers),
    }  # fmt: skip


def _grpc_requests(numbers: bytes) -> dict[str, bytes]:
    from mlaas4hep.serving.protocols.grpc_messages import load_messages

    given = {"name": "inputs", "datatype": "FP32", "shape": [1, 5]}
    request = load_messages()["ModelInferRequest"]
    typed = {**given, "contents": {"fp32_contents": [1, 2, 3, 4, 5]}, "parameters": {"a": {"bool_param": True}}}
    integers = {**given, "datatype": "INT8", "contents": {"int_contents": [1, 2, 3, 4, 5]}}
    return {
        "raw": request(model_name="m", inputs=[given], raw_input_contents=[numbers]).SerializeToString(),
        "typed": request(model_name="m", id="a", inputs=[typed], outputs=[{"name": "scores"}]).SerializeToString(),
        "integers": request(model_name="m", inputs=[integers]).SerializeToString(),
    }


def _uploads(folder: Path) -> dict[str, dict[str, bytes]]:
    import h5py
    from PIL import Image
    from serving_fixtures import BRANCHES, KEYS, onnx_model, params, trained_model, write_bundle

    from fuzz.server_targets import form, image_model

    described = json.dumps(params("m")).encode()
    keys, branches = json.dumps(KEYS).encode(), json.dumps(BRANCHES).encode()
    bundle = write_bundle(folder / "m", "m")
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    files = {
        "params": ("params.json", described),
        "model": ("model.onnx", onnx_model()),
        "labels": ("labels.txt", b"a\nb"),
    }
    more = b"\r\nContent-Type: text/plain; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return {
        "multipart": {
            "upload": form(files, name="m"),
            "base64": form({**files, "model": ("model.onnx", base64.b64encode(onnx_model()))}, name="m"),
            "image": form({"image": ("a.png", _image(image, "PNG"))}, model="pixels"),
            "delete": form({}, model="m"),
            "headers": form({"model": ('a"; filename*=utf-8\'\'%41', b"x")}, name="x").replace(b"\r\n\r\n", more),
        },
        "params": {
            "labels": described + b"\0ggH\nVBF\n",
            "short": b'{"name": "m", "model": "model.onnx"}',
            "extra": b'{"name": "m", "model": "model.onnx",'
            b' "a": "\\u00e9\\ud83d\\ude00", "b": [[9223372036854775807]]}',
        },
        "onnx_metadata": {
            "columns": keys + b"\0" + branches,
            "no-branches": keys + b"\0{}",
            "preproc": b"\0".join([keys, branches, _preproc_of_graph()]),
        },
        "onnx_model": {"rows": trained_model(), "images": image_model()},
        "onnx_bounds": {"rows": onnx_model(), "images": image_model(), **_graphs()},
        "tar": {
            "ustar": _tar(bundle, tarfile.USTAR_FORMAT),
            "gnu": _tar(bundle, tarfile.GNU_FORMAT, "m" + "o" * 120),
            "pax": _tar(bundle, tarfile.PAX_FORMAT, "m\u00e9" + "o" * 120),
            "gzip": zlib.compress(_tar(bundle, tarfile.USTAR_FORMAT), wbits=31),
        },
        "keras": {"config": _keras_config(), "weights": _weights(h5py)},
        "image": {
            "png": _image(image, "PNG"),
            "grey16": _image(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG"),
            "palette": _image(image.convert("P"), "PNG", transparency=b"\0\1"),
            "jpeg": _image(image, "JPEG", exif=_orientation(image)),
            "progressive": _image(image.convert("L"), "JPEG", progressive=True),
        },
    }  # fmt: skip


def _preproc_of_graph() -> bytes:
    content = {"define": {"MET_pt": "sum(pt[pt > 2]) + met", "Muon_pt": "pt"}, "cut": "met > 0 & good"}
    inputs = {"pt": ["jagged", "f"], "met": ["flat", "f"], "good": ["flat", "b"]}
    return json.dumps({"content": content, "inputs": inputs}).encode()


def _graphs() -> dict[str, bytes]:
    """Return graphs with trees, with shapes that depend on the rows, with loops, and with a recurrent layer."""
    from serving_fixtures import onnx
    from test_deadlines import looping_model
    from test_model_limits import graph, growing_model, node
    from test_onnx_bounds import peak_model, squares_model, tree_model

    weights = np.ones((4, 3, 1, 1), np.float32)
    gates = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    recurrent = [
        node("Unsqueeze", "x axis", "steps"),
        onnx.helper.make_node("LSTM", ["steps", "w", "r"], ["all", "y"], hidden_size=2),
    ]
    return {
        "trees": tree_model([1, 0, 0], [b"a", b"b"]),
        "shapes": squares_model(3),
        "peak": peak_model(),
        "loop": looping_model(),
        "growing": growing_model(),
        "recurrent": graph(recurrent, {**gates, "axis": np.array([0])}),
        "convolution": graph(
            [node("Reshape", "x shape", "images"), node("Conv", "images w", "y")],
            {"shape": np.array([-1, 3, 1, 1]), "w": weights},
        ),
    }


def _image(image: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _orientation(image: Any) -> bytes:
    exif = image.getexif()
    exif[274] = 6
    return bytes(exif.tobytes())


def _tar(bundle: Path, kind: int, folder: str = "m") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for path in sorted(bundle.iterdir()):
            info = archive.gettarinfo(path, f"{folder}/{path.name}")
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    content = file.getvalue().rstrip(b"\0")
    return content + bytes(-len(content) % 512 + 1024)  # without what pads it to 10 kB


def _keras_config() -> bytes:
    start = {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": None}}
    layer = {"module": "keras.layers", "class_name": "Dense", "registered_name": None,
             "config": {"units": 1, "activation": "linear", "kernel_initializer": start}}  # fmt: skip
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]},
                       "compile_config": {"loss": "mse"}}).encode()  # fmt: skip


def _weights(h5py: Any) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as weights:
        weights.create_dataset("layers/dense/vars/0", data=np.ones((2, 1), np.float32))
    return file.getvalue()


def _root_files(folder: Path) -> dict[str, dict[str, bytes]]:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, EVENTS)
    columns = {
        "event": np.arange(EVENTS, dtype=np.uint64),
        "met": rng.exponential(30, EVENTS).astype(np.float32),
        "flags": rng.integers(0, 2, (EVENTS, 3)).astype(bool),
        "pt": ak.unflatten(rng.exponential(20, counts.sum()), counts),
    }
    types = {"event": np.uint64, "met": np.float32, "flags": np.dtype((bool, (3,))), "pt": "var * float64"}
    files: dict[str, bytes] = {}
    for name, compression in {"tree": None, "zlib": uproot.ZLIB(1), "lzma": uproot.LZMA(1)}.items():
        path = folder / f"{name}.root"
        with uproot.recreate(path, compression=compression, uuid_function=_uuid) as file:
            tree = file.mktree("Events", types)
            for start in (0, EVENTS // 2):
                tree.extend({key: values[start : start + EVENTS // 2] for key, values in columns.items()})
        files[name] = path.read_bytes()
    with uproot.open(folder / "tree.root") as file:
        key = file.file.root_directory.key("Events")
    record = files["tree"][key.fSeekKey + key.fKeylen : key.fSeekKey + key.fNbytes]
    length = int(key.fKeylen)
    records = {
        name: _record(CORPUS.parent / "files" / file, name, length)
        for file, name in (("embedded.root", "only"), ("elements.root", "vectors"), ("elements.root", "split"))
    }
    rntuple = (CORPUS.parent / "files" / "rntuple.root").read_bytes()
    baskets, blocks = _baskets()
    return {
        "root_file": files,
        "rntuple": {"root": rntuple, "plain": _rntuple(folder / "plain.root", columns)},
        "tree_record": {"record": record, **records},
        "basket": baskets,
        **_pages(),
        "block": blocks,
    }  # fmt: skip


def _pages() -> dict[str, dict[str, bytes]]:
    """Return pages in several encodings and compressions, and the page list of a cluster, which ROOT wrote."""
    from fuzz.file_targets import ENCODINGS
    from mlaas4hep.io import open_source

    path = CORPUS.parent / "files" / "pages.root"
    content, pages, lists = path.read_bytes(), {}, {}
    for turn, name in enumerate(("zlib", "lz4", "zstd", "uncompressed")):
        with open_source(str(path), name) as source:
            cluster = source._pages._clusters.pages(2, 3)
            for number, column in enumerate(source._pages._columns):
                kind = (column.encoding.code, column.encoding.bits) if column.encoding else None
                if kind not in ENCODINGS or ENCODINGS.index(kind) % 4 != turn:
                    continue
                first = int(cluster.first[0, number])
                at, size, elements = (int(part[first]) for part in (cluster.seek, cluster.size, cluster.elements))
                head = bytes([ENCODINGS.index(kind), *elements.to_bytes(2, "little"), number % 3, 1])
                pages[f"{kind[0].name.lower()}-{kind[1]}"] = head + content[at : at + size + 8]
    with open_source(str(path), "representations") as source:
        clusters = source._pages._clusters
        number, start, end = clusters._places[1].tolist()
        lists["representations"] = bytes([len(source._pages._columns)]) + clusters._lists[number][start:end]
    return {"rntuple_page": pages, "page_list": lists}


def _record(path: Path, tree: str, length: int) -> bytes:
    """Return the record of a tree whose key has a length, which is included in the references in the record."""
    with uproot.open(path) as file:
        key = file.key(tree)
        assert key.fKeylen == length
        return bytes(key.get_uncompressed_chunk_cursor()[0].raw_data)


def _rntuple(path: Path, columns: dict[str, Any]) -> bytes:
    """Return an RNTuple without compression, so that damage reaches the parser."""
    with uproot.recreate(path, compression=None, uuid_function=_uuid) as file:
        ntuple = file.mkrntuple("Events", {name: values for name, values in columns.items() if name != "flags"})
        ntuple.extend({name: values for name, values in columns.items() if name != "flags"})
    return path.read_bytes()


def _uuid() -> Any:
    import uuid

    return uuid.UUID(int=1)


def _baskets() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return baskets of floats and of lists of floats, with each compression, and the compressed blocks alone."""
    import lzma

    import deflate
    import lz4.block
    import xxhash
    import zstandard

    numbers = np.arange(8, dtype=">f4").tobytes()
    key_size = 18 + 20 + 19
    starts = key_size + 4 * np.array([0, 1, 1, 4, 8], ">i4")
    lists = numbers + struct.pack(">i", 5) + starts.astype(">i4").tobytes()[:-4] + b"\0\0\0\0"
    lz4_block = lz4.block.compress(lists, store_size=False)
    packed = {
        "plain": lists,
        "zlib": _framed(b"ZL", deflate.zlib_compress(lists), len(lists)),
        "lz4": _framed(b"L4", xxhash.xxh64_digest(lz4_block) + lz4_block, len(lists)),
        "zstd": _framed(b"ZS", zstandard.compress(lists), len(lists)),
        "xz": _framed(b"XZ", lzma.compress(lists), len(lists)),
    }
    baskets = {
        f"lists-{name}": b"\x01\x04" + _basket(content, len(lists), 4, key_size, len(numbers))
        for name, content in packed.items()
    }
    baskets["floats"] = b"\x00\x08" + _basket(numbers, len(numbers), 8, key_size, len(numbers))
    return baskets, {name: struct.pack("<H", len(lists)) + content for name, content in packed.items()}


def _framed(kind: bytes, block: bytes, length: int) -> bytes:
    return kind + b"\x08" + len(block).to_bytes(3, "little") + length.to_bytes(3, "little") + block


def _basket(content: bytes, length: int, entries: int, key: int, border: int) -> bytes:
    head = struct.pack(">ihiIhh", key + len(content), 4, length, 0, key, 1)
    tail = struct.pack(">Hiiii", 2, 32_000, 1000, entries, key + border) + b"\0"
    return head + bytes(key - len(head) - len(tail)) + tail + content


def _tables(folder: Path) -> dict[str, dict[str, bytes]]:
    import fastavro
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet as pq

    columns = {"n": [1, None, 3], "x": [1.5, 2.5, 3.5], "pt": [[1.0, 2.0], [], [3.0]]}
    table = pa.table(columns)
    pq.write_table(table, folder / "a.parquet", compression="zstd", row_group_size=2)
    pq.write_table(table.select(["n", "x"]), folder / "plain.parquet", compression="none", use_dictionary=False)
    pyarrow.feather.write_feather(table, str(folder / "a.feather"), compression="lz4")
    schema = {"type": "record", "name": "e", "fields": [
        {"name": "x", "type": "double"}, {"name": "n", "type": ["null", "long"]},
        {"name": "pt", "type": {"type": "array", "items": "float"}}]}  # fmt: skip
    avro = io.BytesIO()
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    fastavro.writer(avro, schema, records, codec="deflate", sync_marker=bytes(range(16)))
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    text = b"n,x\n1,1.5\n,2.5\n3,3e1\n"
    return {
        "parquet": {"lists": (folder / "a.parquet").read_bytes(), "plain": (folder / "plain.parquet").read_bytes()},
        "arrow": {"lists": (folder / "a.feather").read_bytes()},
        "avro": {"lists": avro.getvalue()},
        "csv": {"plain": text, "gzip": zlib.compress(text, wbits=31), "quoted": b'"a b";c\n"1";2\n"3";"4"\n'},
        "json_lines": {"lists": lines, "gzip": zlib.compress(lines, wbits=31)},
    }


def _answers() -> dict[str, dict[str, bytes]]:
    models = b'[{"name": "m", "model": "a.onnx", "options": []}]'
    metadata = {
        "name": "m", "extensions": ["binary_tensor_data"], "parameters": {"keys": ["MET_pt", "MET_phi"]},
        "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [2, 1], "data": [0.25, None]}],
    }  # fmt: skip
    binary = {**metadata, "outputs": [{"name": "scores", "datatype": "FP32", "shape": [2, 1],
                                       "parameters": {"binary_data_size": 8}}]}  # fmt: skip
    body = json.dumps(metadata).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    compressed = zlib.compress(body, wbits=31)
    remote = b"HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\n"
    return {
        "client_answers": {
            "models": models,
            "metadata": body,
            "binary": json.dumps(binary).encode() + b"\0" + np.array([0.25, 0.5], "<f4").tobytes(),
            "scores": b"[[0.1], [0.2]]",
            "labels": b'{"filename": "a", "labels": [{"label": "x", "probability": 0.5}]}',
        },
        "remote_file": {
            "parts": remote + b"Content-Length: 50\r\n\r\n\0\0HTTP/1.1 206 X\r\nContent-Range: bytes 0-49/50\r\n"
            b"Content-Length: 50\r\n\r\n" + bytes(range(50, 100)),
            "whole": remote + b"Content-Length: 90\r\n\r\n\0\0" + remote + b"Content-Length: 90\r\n\r\n" + b"x" * 90,
            "missing": b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n\0\0HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",
            "moved": b"HTTP/1.1 302 X\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n\0\0HTTP/1.1 503 X\r\n\r\n",
        },
        "client_http": {
            "length": head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
            "chunked": head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(body), body),
            "gzip": head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(compressed), compressed),
            "moved": b"HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n",
            "busy": b'HTTP/1.1 503 No\r\nRetry-After: 5\r\nContent-Length: 15\r\n\r\n{"error": "no"}',
            "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"Connection: close\r\n\r\n" + models,
        },
    }


def _descriptions(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return files of text that come with data and models."""
    from serving_fixtures import params
    from tinyroot import write_tree

    from mlaas4hep.config import Params
    from mlaas4hep.reader import DataReader, ReadOptions

    write_tree(folder / "two.root", {name: np.array([1, 2, 3, 4], "f4") for name in ("MET_phi", "MET_pt")})
    write_tree(folder / "lists.root", {"n": np.arange(4), "pt": ak.Array([[1.5], [], [2.5, 1e30], [3.5]])})
    with DataReader.open(str(folder / "lists.root"), ReadOptions(identifier=[])) as reader:
        specs = reader.specs
    with DataReader.open(str(folder / "two.root"), ReadOptions(identifier=[])) as reader:
        own = json.dumps(reader.specs.to_json()).encode()
    original = {"fkeys": ["MET_pt"], "jkeys": ["pt"], "jdim": {"pt": 2}, "nans": {"MET_pt": 0.5, "pt": 0},
                "minv": {"MET_pt": 0.5, "pt": 1}, "maxv": {"MET_pt": 99.5, "pt": 7}}  # fmt: skip
    cuts = {
        "new_branch": {"ht": {"def": "sum(pt) + met", "type": "flat", "cut_1": "ht > 0", "remove": "False"},
                       "half": {"def": "pt / 2", "type": "jagged", "cut": ["half > 0", "all"],
                                "remove": "True", "keys_to_remove": ["eta"]}},
        "flat_cut": {"n": {"cut": "n >= 0", "remove": "False"}},
        "jagged_cut": {"pt": {"cut": ["pt > 1", "any"], "remove": "False"}},
    }  # fmt: skip
    training = {"params": Params.parse({"identifier": []}).model_dump(), "identifier": [],
                "columns": ["MET_phi", "MET_pt"], "classes": ["a", "b"], "outputs": 1,
                "task": "classification"}  # fmt: skip
    inputs = {"jets": {"branches": "Jet_*", "length": 4, "sort": "-Jet_pt", "normalise": {"Jet_pt": "minmax"}}}
    spec = {"model": "model.onnx", "labels": "labels.txt", "name": "htautau", "params": "params.json"}
    expressions = {
        "sums": "sum(pt[pt > 1]) + met*2 - n",
        "index": "pt[:,0] + box[:,1] // n",
        "cut": "good & (min(abs(eta)) < 2.4) | !(n == 1)",
        "power": "where(met > 0, met**2, -met) % 3",
        "functions": "(any(pt > 1) ^ all(eta < 9)) & (mean(pt) > max(1, count(index)) | deltaphi(met, n) != erf(met))",
    }
    return {
        "specs": {"lists": json.dumps(specs.to_json()).encode(), "original": json.dumps(original).encode()},
        "preproc": {"original": json.dumps(cuts).encode(),
                    "short": b'{"define": {"ht": "sum(pt)"}, "cut": "n >= 1 & ht > 1", "cut_2": ["eta > 0", "any"]}',
                    **{name: text.encode() for name, text in expressions.items()}},
        "run_params": {"friends": b'{"friends": {"a": {"file": "{stem}.root", "index": {"run": "r"}}, "b": ":t"}}',
                       "friends_list": b'{"friends": ["s/{dir}.root:t", ":u"]}',
                       "friends_text": json.dumps({"friends": '{"a": {"index": "run,event"}}'}).encode(),
                       "inputs": json.dumps({"inputs": inputs, "split": [0.5, 0.25, 0.25]}).encode(),
                       "original": json.dumps(Params.parse({}).model_dump()).encode()},
        "bundle": {"plain": json.dumps(training).encode() + b"\0" + own,
                   "cut": json.dumps(training).encode() + b"\0" + own + b'\0{"cut": "MET_pt > 1"}'},
        "upload_spec": {"both": json.dumps(spec).encode() + b"\0" + json.dumps(params()).encode()},
        "event_rows": {"row": b'{"keys": ["a", "b"], "values": [1, [2, null]], "model": "m"}',
                       "rows": b'{"keys": ["a", "b"], "values": [[1, 2.5], [NaN, null]], "labels": ["x", 1]}'},
        "label_files": {"images": b'image,label\nring/a.png,ring\n"d.png",blob\nc,blob\n', "lines": b"0\n1.5 # no\n",
                        "tabs": b"label\tfile\nx\ta.png\n"},
        "page_files": {"metrics": b'm{"test": {"auc": 0.8, "loss": null}, "train": {}, "best_epoch": 3}',
                       "training": b't{"classes": ["a"], "files": [{"name": "x", "label": 1, "entries": 5}]}',
                       "example": b'e{"keys": ["a"], "values": [[1], [[2, null]]], "labels": ["a", [1]]}'},
    }  # fmt: skip


if __name__ == "__main__":
    main()
