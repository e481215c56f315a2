"""The names of all targets, known without importing them, in groups that one process runs."""

GROUPS: dict[str, tuple[str, ...]] = {
    "requests": ("http", "json_rows", "json_bodies", "protobuf", "oip", "grpc", "multipart"),
    "models": ("params", "onnx_metadata", "onnx_bounds", "onnx_model"),
    "uploads": ("tar", "keras", "image", "client_http", "client_answers", "remote_file"),
    "descriptions": (
        *("specs", "preproc", "run_params", "bundle", "upload_spec", "event_rows", "label_files", "page_files"),
    ),
    "files": (
        *("root_file", "rntuple", "tree_record", "basket", "rntuple_page", "page_list", "block"),
        *("parquet", "arrow", "avro", "csv", "json_lines"),
    ),
}  # fmt: skip

NAMES = tuple(name for group in GROUPS.values() for name in group)
