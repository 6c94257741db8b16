"""Write the golden files of this folder anew from the installed db_bench.

    python tests/golden/rocksdb/regenerate.py

They are real output: the help text, three workloads with their three phases, and the OPTIONS and LOG of a
database whose configuration RocksDB corrected.
"""

import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STATS = ["--statistics=1", "--histogram=1", "--seed=7"]
MIX = [
    "--key_size=48", "--value_size=1000", "--num=120000", "--reads=30000", "--mix_get_ratio=0.806",
    "--mix_put_ratio=0.16", "--mix_seek_ratio=0.034", "--sine_mix_rate=0", "--keyrange_dist_a=14.18",
    "--keyrange_dist_b=-2.917", "--keyrange_dist_c=0.0164", "--keyrange_dist_d=-0.08082", "--keyrange_num=30",
    "--value_k=0.2615", "--value_sigma=25.45", "--iter_k=2.517", "--iter_sigma=14.236",
]  # fmt: skip
WORKLOADS = {
    "mixgraph": ("mixgraph", MIX),
    "ycsb-b": ("readrandomwriterandom", ["--key_size=24", "--value_size=1000", "--num=120000", "--reads=100000",
                                         "--readwritepercent=95"]),
    "read-seek": ("readrandom,seekrandom", ["--num=50000", "--value_size=400", "--reads=20000", "--seek_nexts=20"]),
}  # fmt: skip
CORRECTED = ["--level0_file_num_compaction_trigger=8", "--level0_slowdown_writes_trigger=2",
             "--level0_stop_writes_trigger=1", "--min_write_buffer_number_to_merge=6",
             "--max_write_buffer_number=3", "--bloom_bits=10", "--cache_size=33554432"]  # fmt: skip


def run(*arguments: str) -> str:
    return subprocess.run(["db_bench", *arguments], capture_output=True, text=True, check=False).stdout


def main() -> None:
    (HERE / "help.txt").write_text(run("--help"))
    for name, (benchmark, flags) in WORKLOADS.items():
        with tempfile.TemporaryDirectory() as folder:
            shared = [f"--db={folder}/db", *STATS, *flags]
            phases = {
                "load": ["--benchmarks=fillrandom,flush,waitforcompaction,stats", *shared],
                "open": ["--benchmarks=levelstats", "--use_existing_db=1", *shared],
                "run": [f"--benchmarks={benchmark},stats", "--use_existing_db=1", *shared],
            }
            for phase, arguments in phases.items():
                text = run(*arguments).replace(folder, "/tmp/folder")
                (HERE / f"{name}-{phase}.txt").write_text(text)
    with tempfile.TemporaryDirectory() as folder:
        run("--benchmarks=fillrandom,flush", f"--db={folder}/db", "--num=2000", *CORRECTED)
        (HERE / "OPTIONS-corrected").write_text(next(Path(folder, "db").glob("OPTIONS-*")).read_text())
        (HERE / "LOG-corrected").write_text(Path(folder, "db", "LOG").read_text().replace(folder, "/tmp/folder"))


if __name__ == "__main__":
    main()
