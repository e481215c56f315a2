"""Parquet, Feather, Avro and RNTuple with a bit flipped or the end cut off: right numbers or an error, and no crash."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from damage_in_process import CUTS, FLIPS, read
from fuzz.root_mutations import restore_checksums
from test_formats import events, write_avro, write_feather, write_parquet, write_rntuple

from mlaas4hep.errors import MLaaS4HEPError

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])}
WRITERS = {"parquet": write_parquet, "feather": write_feather, "avro": write_avro, "rntuple": write_rntuple}


@pytest.mark.parametrize("kind", WRITERS)
def test_damage_gives_the_right_numbers_or_an_error_that_names_the_file(kind, tmp_path):
    columns = {name: values[:200] for name, values in events().items()}
    WRITERS[kind](tmp_path / "events", columns)
    command = [sys.executable, str(TESTS / "damage_in_process.py"), kind, str(tmp_path / "events")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads(done.stdout)
    assert sum(ends.values()) == FLIPS + CUTS
    assert ends["refused"] >= CUTS / 2


def test_a_footer_whose_column_is_of_another_type_is_an_error(tmp_path):
    pq.write_table(pa.table({"n": [1, 2, None]}), tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    place = content.index(b"\x15\x04\x195\x00\x06\x10")  # of the column: type 2, INT64, and its three encodings
    content[place + 1] = 0x24  # type 18, which there is not
    (tmp_path / "a").write_bytes(content)
    script = f"from mlaas4hep.io import open_source\nopen_source({str(tmp_path / 'a')!r}).read(['n'], 0, 3)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 1
    assert f"FileUnreadable: cannot read column 'n' of {tmp_path / 'a'}, entries 0 to 2: " in done.stderr


def test_a_page_that_declares_a_billion_elements_is_refused_before_memory_is_allocated(tmp_path):
    """uproot allocates as many elements as the page list claims: 8 GB for a page of 363 bytes."""
    path = tmp_path / "events.root"
    write_rntuple(path, {name: values[:200] for name, values in events().items()})
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        page = file["Events"].page_link_list[0][5].pages[0]
    place = content.index(struct.pack("<iiQ", page.num_elements, page.locator.num_bytes, page.locator.offset))
    content[place + 3] ^= 0x40
    restore_checksums(content)
    path.write_bytes(content)
    errors = [result for result in read(path).values() if isinstance(result, MLaaS4HEPError)]
    reason = f"its pages have {page.num_elements + 2**30} elements instead of {page.num_elements}"
    assert errors
    assert all(str(error).endswith(reason) for error in errors)
