"""Fuzzing of every parser that reads bytes from strangers; `tests/fuzz_parsers.py` is the command.

- `targets`: the table of all targets, which `server_targets`, `grpc_targets`, `onnx_targets`, `archive_targets`,
  `description_targets`, `file_targets` and `client_targets` define; `names`: their names.
- `checks`: what counts as a fault.
- `mutations`: damaged variants of given inputs; `json_mutations`, `http_mutations` and `root_mutations` keep the
  structure of an input.
- `sanitizer`: the compiled loops with AddressSanitizer.
- `campaign`: the fuzzing of one target in this process.
- `seeds`: writes the valid inputs from which the fuzzing starts.
"""
