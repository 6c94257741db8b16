"""Is the new function faster? A paired, interleaved ratio with its interval, or "not proven"."""

from __future__ import annotations

import mlsysopt as mo

WORDS = [f"word{i % 977}" for i in range(4000)]


def count_by_hand() -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in WORDS:
        if word in counts:
            counts[word] = counts[word] + 1
        else:
            counts[word] = 1
    return counts


def count_by_get() -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in WORDS:
        counts[word] = counts.get(word, 0) + 1
    return counts


def main() -> None:
    print("same function twice: ", mo.compare(count_by_hand, count_by_hand, clock="cpu"))
    print("get against if/else: ", mo.compare(count_by_hand, count_by_get, clock="cpu"))


if __name__ == "__main__":
    main()
