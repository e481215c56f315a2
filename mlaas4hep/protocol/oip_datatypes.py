"""The numeric datatypes of the Open Inference Protocol, as NumPy writes them.

    np.dtype(DATATYPES["FP32"])          # little-endian, as in the protocol's binary data

BYTES (texts) is not supported.
"""

from __future__ import annotations

REAL_DATATYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}

DATATYPES = {
    "BOOL": "?",
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    **REAL_DATATYPES,
}  # fmt: skip
