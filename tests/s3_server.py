"""A real S3 server on a free port of this machine, moto's, whose keys one may have or not."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import requests

BUCKET = "store"
SECRET = "no secret"
MAY_ALL = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"""


class S3Server:
    """Has one bucket, and holds what `put` gives it as s3://store/KEY."""

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None:
            pytest.skip("moto is not installed: pip install 'mlaas4hep[test]'")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = self._process.stderr
        assert log is not None
        found = (re.search(r"Running on http://127\.0\.0\.1:(\d+)", line) for line in log)
        port = next((match[1] for match in found if match), None)
        if port is None:
            raise RuntimeError("moto does not start")
        self._drain = Thread(target=log.read, daemon=True)  # so that it never waits for somebody to read
        self._drain.start()
        self.port = int(port)
        self.address = f"http://127.0.0.1:{self.port}"
        self._client("s3").create_bucket(Bucket=BUCKET)

    def put(self, source: Path, key: str, public: bool = False) -> str:
        """Give it a file; return its URL."""
        access = {"ACL": "public-read"} if public else {}
        self._client("s3").put_object(Bucket=BUCKET, Key=key, Body=source.read_bytes(), **access)
        return f"s3://{BUCKET}/{key}"

    def guard(self) -> dict[str, str]:
        """Let only those in from now on who have a key; return the environment that has one."""
        users = self._client("iam")
        users.create_user(UserName="reader")
        users.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=MAY_ALL)
        key = users.create_access_key(UserName="reader")["AccessKey"]
        requests.post(f"{self.address}/moto-api/reset-auth", data="0", timeout=20).raise_for_status()
        return environment(self.address, key["AccessKeyId"], key["SecretAccessKey"])

    def stall(self) -> None:
        """Let it hold its connections and answer nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a stall."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _client(self, service):
        import boto3

        where = {"endpoint_url": self.address, "region_name": "us-east-1"}
        return boto3.client(service, aws_access_key_id="owner", aws_secret_access_key=SECRET, **where)


def environment(address: str, key: str = "anybody", secret: str = SECRET) -> dict[str, str]:
    """Return what tells S3's clients where the server is and who we are, and that nothing else does."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
