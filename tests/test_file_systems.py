"""Files that fsspec reaches through libraries that know no timeout: read as on disk, and given up in time."""

import os
import socket
import zipfile

import fsspec
import numpy as np
import pytest
from scripts import only_error_line, run_script
from tinyroot import write_events

from mlaas4hep.errors import Unreachable
from mlaas4hep.io import open_source
from mlaas4hep.io.storage.replicas import RetryPolicy


def put_into_memory(path):
    fsspec.filesystem("memory").pipe_file("/folder/a.root", path.read_bytes())
    return "memory://folder/a.root"


def put_into_zip(path):
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as file:
        file.write(path, "inner/a.root")
    return f"zip://inner/a.root::file://{path.with_suffix('.zip')}"


@pytest.mark.parametrize("put", [lambda path: f"file://{path}", put_into_memory, put_into_zip])
def test_events_are_read_from_synchronous_file_systems(put, tmp_path):
    columns = write_events(tmp_path / "a.root", 2000)
    with open_source(put(tmp_path / "a.root")) as source:
        found = source.read(["met", "pt"], 0, 2000)
        np.testing.assert_array_equal(found["met"], columns["met"])
        np.testing.assert_array_equal(found["pt"].content, columns["pt"].layout.content.data)


def test_a_request_for_a_missing_file_is_not_repeated(capsys):
    with pytest.raises(Unreachable, match=r"cannot read memory://folder/none\.root: no such file"):
        open_source("memory://folder/none.root")
    assert "trying again" not in capsys.readouterr().err


def test_a_server_that_never_responds_is_abandoned_even_if_its_library_would_wait():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"webhdfs://127.0.0.1:{server.getsockname()[1]}/a.root"
        with pytest.raises(Unreachable, match=r"cannot read webhdfs://.*: no response within the timeout"):
            open_source(url, retry_policy=RetryPolicy(timeout=1, retries=0))


def test_a_missing_hadoop_library_is_one_line_with_the_variables_to_set(tmp_path):
    without = {name: "" for name in ("HADOOP_HOME", "ARROW_LIBHDFS_DIR") if name in os.environ}
    done = run_script("reader.py", "--fin=hdfs://127.0.0.1:9/a.root", cwd=tmp_path, env=without)
    line = only_error_line(done)
    assert line.startswith("error: cannot read hdfs://127.0.0.1:9/a.root: Hadoop's library (libhdfs) cannot be loaded")
    for variable in ("JAVA_HOME", "HADOOP_HOME", "ARROW_LIBHDFS_DIR", "CLASSPATH"):
        assert variable in line
    assert "trying again" not in done.stderr
