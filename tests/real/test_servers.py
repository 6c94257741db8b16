"""The shipped servers, and the worked example by its path, keep the contract of server files on real servers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from mlsysopt.operate.tune.servers.postgres import Postgres
from mlsysopt.operate.tune.servers.redis import Redis
from mlsysopt.testing.servers import ServerContract
from tests.real import postgres as cluster

MEMCACHED = Path(__file__).parents[2] / "examples" / "servers" / "memcached.py"

pytestmark = [pytest.mark.real, pytest.mark.slow]


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        cluster.program(program) is None, reason=f"{program} is missing: apt-get install {package}"
    )


@needs("postgres", "postgresql")
class TestPostgres(ServerContract):
    server = Postgres()
    settings: ClassVar = {"workload": "select"}
    changed: ClassVar = {"shared_buffers": 2**25, "work_mem": 2**21, "jit": False, "random_page_cost": 1.5}
    absurd: ClassVar = {"shared_buffers": 2**42}
    refusal = "could not map|Cannot allocate memory|shared memory"


@needs("redis-server", "redis-server")
class TestRedis(ServerContract):
    server = Redis()
    changed: ClassVar = {"hash_max_listpack_entries": 32, "hz": 50, "activerehashing": False, "io_threads": 2}
    absurd: ClassVar = {"io_threads": 500}
    refusal = "between 1 and 128"


@needs("redis-server", "redis-server")
class TestRedisCorrections(ServerContract):
    server = Redis()
    settings: ClassVar = {"workload": "basic"}
    changed: ClassVar = {"list_max_listpack_size": -1, "auto_aof_rewrite_min_size": 2**20}
    absurd: ClassVar = {"hz": 100_000}
    refusal = "the server uses 500"


@pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is missing: apt-get install memcached")
class TestMemcached(ServerContract):
    path = str(MEMCACHED)
    changed: ClassVar = {"memory_limit": 2**25, "threads": 2, "hash_algorithm": "xxh3", "lru_maintainer": False}
    absurd: ClassVar = {"hot_lru_pct": 90}
    refusal = "hot_lru_pct must be > 1 and < 80"


@pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is missing: apt-get install memcached")
def test_the_contract_in_the_guide_passes_where_a_user_would_run_it(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-server.md").read_text()
    block = next(
        one for one in re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL) if "testing" in one
    )
    (tmp_path / "test_memcached.py").write_text(block)
    shutil.copy(MEMCACHED, tmp_path)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_memcached.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-3000:]
