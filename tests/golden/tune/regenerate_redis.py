"""Record what a Redis server says to absurd values: `python tests/golden/tune/regenerate_redis.py`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from mlsysopt.core.processes import Service

HERE = Path(__file__).parent
VALUES = ("__mlsysopt__", str(-(2**63)), str(2**64 - 1), str(2**63 - 1))


def started(name: str, value: str) -> str:
    argv = ["redis-server", "--port", "0", f"--{name}", value, "--hz", VALUES[0]]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stderr


def main() -> None:
    import redis

    replies: dict[str, dict[str, str]] = {}
    starts: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        argv = ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes"]
        with Service(argv) as service, redis.Redis(port=service.port, decode_responses=True) as client:
            version = client.info("server")["redis_version"]
            values = {name: value for name, value in client.config_get("*").items() if value and name not in OURS}
            for name, default in values.items():
                replies[name] = {}
                for value in VALUES:
                    try:
                        client.config_set(name, value)
                        replies[name][value] = ""
                    except redis.ResponseError as error:
                        replies[name][value] = str(error)
                    if "immutable" in replies[name][value]:
                        starts.setdefault(name, {})[value] = started(name, value)
                try:
                    client.config_set(name, default)
                except redis.ResponseError:
                    assert "can't set" in replies[name][VALUES[0]]
    document = {"version": version, "values": values, "replies": replies, "starts": starts}
    (HERE / "redis-replies.json").write_text(json.dumps(document, indent=0) + "\n")


# What differs from run to run.
OURS = ("dir", "port", "bind")

if __name__ == "__main__":
    main()
