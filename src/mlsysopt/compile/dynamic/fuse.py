"""Which ops become one kernel: edges by the bytes that they save, merged as long as one kernel can do it.

References:
    K. Zhu et al., *DISC: A Dynamic Shape Compiler for Machine Learning Workloads*, EuroMLSys 2021, and its
    successor's stitch fusion: several schedules in one kernel, intermediates in cache. This is our reading of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mlsysopt.compile.dynamic.expressions import express, visible
from mlsysopt.compile.dynamic.groups import Foreign, Fusion, FusionGroup, Missed, Step
from mlsysopt.compile.dynamic.indices import Refused
from mlsysopt.compile.dynamic.nodes import Expressions, loaded
from mlsysopt.compile.dynamic.prepare import Prepared, prepare
from mlsysopt.compile.dynamic.roles import Role, Supports, is_copy, node_op, weight
from mlsysopt.compile.dynamic.schedule import awkward_bytes, which_way
from mlsysopt.compile.dynamic.sweeps import row_bytes
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.memory.typical import typical_sizes
from mlsysopt.graph.ops.registry import lookup

__all__ = ["fuse", "plan"]

# Half of a second-level cache of 512 KiB, which is the smallest of today's server cores.
ROW_LIMIT = 256 << 10
# Nodes beyond that do not fit into registers, and LLVM's time grows faster than they do.
_MOST_OPS = 48
_CHEAP = 4
_READERS = 4


def plan(graph: Graph, *, supports: Supports | None = None, row_limit: int = ROW_LIMIT) -> Fusion:
    """Bring a program into primitives and fuse it.

    Args:
        graph: Any program.
        supports: Which elementwise nodes generated code knows.
        row_limit: Bytes that the row buffers of a kernel may take at typical sizes.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("f")
    >>> y = b.op("softmax", b.input("x", f32["B", "S"]), axis=1, name="y")
    >>> print(plan(b.finish([y])))
    0: row: max, sub, exp, sum, div; reads %x
        -> %y: f32[B, S]
    <BLANKLINE>
    """
    return fuse(prepare(graph, supports), row_limit=row_limit)


def fuse(prepared: Prepared, *, row_limit: int = ROW_LIMIT) -> Fusion:
    """Group the ops of a prepared program."""
    return _Planner(prepared, row_limit).fusion()


@dataclass
class _Cluster:
    """Ops that go together so far; bit sets are of clusters.

    Attributes:
        ops: Numbers of its ops, in order.
        after: Clusters that need it, at any distance.
        before: Clusters that it needs, at any distance.
    """

    ops: list[int]
    after: int = 0
    before: int = 0
    fuses: bool = False
    expressions: Expressions | None = None
    roots: tuple[Value, ...] = field(default=())


class _Planner:
    def __init__(self, prepared: Prepared, row_limit: int) -> None:
        self.prepared, self.graph, self.row_limit = prepared, prepared.graph, row_limit
        self.ops = self.graph.ops
        self.number = prepared.numbers
        self.sizes = typical_sizes(self.graph.facts, self.graph.symbols)
        self.constants = {constant.value for constant in self.graph.constants}
        self.outputs = set(self.graph.outputs)
        self.elements: dict[Value, int] = {}
        self.missed: dict[tuple[str, str], Missed] = {}
        self.inlined: frozenset[int] = frozenset()
        self.inlined = self._cheap_ops()
        self.cluster_of: dict[int, int] = {}
        self.clusters: dict[int, _Cluster] = {}
        self._start()

    # what is known of values

    def count(self, value: Value) -> int:
        """Return the typical number of elements of a value."""
        found = self.elements.get(value)
        if found is None:
            found = self.elements[value] = value.type.elements.at(self.sizes)
        return found

    def bytes(self, value: Value) -> int:
        return self.count(value) * value.type.dtype.bytes

    def is_free(self, number: int) -> bool:
        return self.prepared.roles[self.ops[number].name] is Role.FREE or number in self.inlined

    def origins(self, value: Value) -> Iterator[Value]:
        """Yield the values behind free ops that a reader of a value depends on."""
        op = self.graph.producer(value)
        if op is not None and self.is_free(self.number[op.name]):
            for one in op.operands:
                yield from self.origins(one)
        else:
            yield value

    def readers(self, value: Value) -> Iterator[Op | None]:
        """Yield the ops behind free ones that read a value; None stands for the caller."""
        if value in self.outputs:
            yield None
        for op in self.graph.users.get(value, ()):
            if self.is_free(self.number[op.name]):
                for result in op.results:
                    yield from self.readers(result)
            else:
                yield op

    def _cheap_ops(self) -> frozenset[int]:
        """Choose ops that are computed wherever they are read: less is read than would be written."""
        chosen: set[int] = set()
        price: dict[int, int] = {}
        for i, op in enumerate(self.ops):
            if self.prepared.roles[op.name] is not Role.COMPUTE or not lookup(op.kind).elementwise:
                continue
            if op.name in self.prepared.absorbed or op.result in self.outputs or is_copy(op):
                continue
            cost = weight(node_op(op)) + sum(price.get(self.number[p.name], 0) for p in self._producers(op))
            users = list(self.readers(op.result))
            fused = all(user is not None and self._takes(user, op.result) for user in users)
            read = sum(self.bytes(one) for one in dict.fromkeys(x for v in op.operands for x in self.origins(v)))
            if cost <= _CHEAP and fused and 2 <= len(users) <= _READERS and read <= self.bytes(op.result):
                chosen.add(i)
                price[i] = cost
                self.inlined = frozenset(chosen)
        return frozenset(chosen)

    def _producers(self, op: Op) -> list[Op]:
        return [p for p in (self.graph.producer(value) for value in op.operands) if p is not None]

    def _takes(self, user: Op, value: Value) -> bool:
        fuses = self.prepared.roles[user.name].fuses and user.name not in self.prepared.absorbed
        return fuses and user.kind not in ("concat", "pad", "gather", "gather_elements", "embedding")

    # clusters

    def _start(self) -> None:
        anchors = self.prepared.absorbed
        for i, op in enumerate(self.ops):
            role = self.prepared.roles[op.name]
            if self.is_free(i):
                continue
            home = self.number[anchors[op.name].op.name] if op.name in anchors else i
            if home == i:
                self.clusters[i] = _Cluster([i], fuses=role.fuses)
            else:
                self.clusters[home].ops.append(i)
            self.cluster_of[i] = home
        needs = {home: self._needs(cluster) for home, cluster in self.clusters.items()}
        for home in sorted(self.clusters, key=lambda one: max(self.clusters[one].ops)):
            before = 0
            for other in needs[home]:
                before |= 1 << other | self.clusters[other].before
            self.clusters[home].before = before
        for home, cluster in self.clusters.items():
            for other in _bits(cluster.before):
                self.clusters[other].after |= 1 << home

    def _needs(self, cluster: _Cluster) -> set[int]:
        found: set[int] = set()
        for i in cluster.ops:
            for value in self.ops[i].operands:
                for origin in self.origins(value):
                    producer = self.graph.producer(origin)
                    if producer is not None:
                        found.add(self.cluster_of[self.number[producer.name]])
        return found - {self.cluster_of[cluster.ops[0]]}

    def roots(self, ops: Sequence[int]) -> tuple[Value, ...]:
        """Return the values of ops that somebody else reads."""
        inside = set(ops)
        found: list[Value] = []
        for i in ops:
            for value in self.ops[i].results:
                if any(user is None or self.number[user.name] not in inside for user in self.readers(value)):
                    found.append(value)
        return tuple(found)

    def express(self, ops: Sequence[int]) -> tuple[Expressions, tuple[Value, ...]]:
        """Return the nodes of ops as one kernel.

        Raises:
            Refused: there is no such kernel.
        """
        roots = self.roots(ops)
        found = express(ops, roots, self.prepared, self.inlined, self.sizes)
        if row_bytes(found, self.sizes) > self.row_limit:
            row = " x ".join(str(found.arrangement.loops[loop]) for loop in found.arrangement.row)
            raise Refused(f"rows of {row} do not stay in cache")
        return found, roots

    def merge(self, a: int, b: int, value: Value, reader: Op, *, beside: bool = False) -> bool:
        """Make one cluster of two if one kernel can do it; otherwise keep the reason.

        Two that only read the same value stay apart when one order of loops does not suit both.
        """
        first, second = self.clusters[a], self.clusters[b]
        outside = (first.after | second.after) & (first.before | second.before) & ~(1 << a | 1 << b)
        ops = sorted(first.ops + second.ops)
        try:
            if outside:
                through = self.ops[self.clusters[next(_bits(outside))].ops[0]]
                raise Refused(f"{through.kind} %{through.name} stands between")
            if len(ops) > _MOST_OPS:
                raise Refused(f"more than {_MOST_OPS} ops in one kernel")
            expressions, roots = self.express(ops)
            if beside and self._awkward(expressions) > sum(self._awkward(self._expressed(one)) for one in (a, b)):
                raise Refused("their loops want different orders")
        except Refused as refused:
            key = (value.name, reader.name)
            self.missed[key] = Missed(value, reader, refused.reason, refused.fact, self.bytes(value))
            return False
        self._join(a, b, ops)
        self.clusters[a].expressions, self.clusters[a].roots = expressions, roots
        return True

    def _awkward(self, expressions: Expressions) -> int:
        return awkward_bytes(expressions, self.graph.facts, self.sizes)

    def _expressed(self, home: int) -> Expressions:
        cluster = self.clusters[home]
        if cluster.expressions is None:
            cluster.roots = self.roots(cluster.ops)
            cluster.expressions = express(cluster.ops, cluster.roots, self.prepared, self.inlined, self.sizes)
        return cluster.expressions

    def _join(self, a: int, b: int, ops: list[int]) -> None:
        first, second = self.clusters[a], self.clusters.pop(b)
        both = 1 << a | 1 << b
        first.ops = ops
        first.after = (first.after | second.after) & ~both
        first.before = (first.before | second.before) & ~both
        for i in ops:
            self.cluster_of[i] = a
        for home, cluster in self.clusters.items():
            if home == a:
                continue
            if cluster.before & both:
                cluster.before = cluster.before & ~(1 << b) | 1 << a | first.before
            if cluster.after & both:
                cluster.after = cluster.after & ~(1 << b) | 1 << a | first.after

    # the plan

    def fusion(self) -> Fusion:
        self._merge_along()
        self._merge_beside()
        steps = self._ordered()
        apart = {key: one for key, one in self.missed.items() if self._is_apart(one)}
        missed = sorted(apart.values(), key=lambda one: (-one.bytes, one.value.name, one.reader.name))
        return Fusion(self.prepared, steps, tuple(missed), self.sizes)

    def _is_apart(self, one: Missed) -> bool:
        producer = self.graph.producer(one.value)
        if producer is None or not self.prepared.roles[producer.name].fuses:
            return bool(one.fact)
        return self.cluster_of[self.number[producer.name]] != self.cluster_of[self.number[one.reader.name]]

    def _merge_along(self) -> None:
        """Merge makers and readers, those with the most bytes between them first."""
        edges: dict[tuple[int, int], tuple[int, Value]] = {}
        for home, cluster in self.clusters.items():
            if not cluster.fuses:
                continue
            op = self.ops[home]
            for value in op.operands:
                for origin in self.origins(value):
                    maker = self.graph.producer(origin)
                    if maker is None or not self.clusters[self.cluster_of[self.number[maker.name]]].fuses:
                        continue
                    # What nobody else reads is neither written nor read.
                    saved = self.bytes(origin) * (2 if len(list(self.readers(origin))) == 1 else 1)
                    edges[self.number[maker.name], home] = (saved, origin)
        waiting = sorted(edges.items(), key=lambda edge: (-edge[1][0], edge[0]))
        while waiting:
            again: list[tuple[tuple[int, int], tuple[int, Value]]] = []
            merged = False
            for (maker, reader), (gain, value) in waiting:
                a, b = self.cluster_of[maker], self.cluster_of[reader]
                if a == b:
                    continue
                if self.merge(a, b, value, self.ops[reader]):
                    merged = True
                else:
                    again.append(((maker, reader), (gain, value)))
            # What was in the way may have been taken in since: a producer with two readers merges with both or none.
            waiting = again if merged else []

    def _merge_beside(self) -> None:
        """Merge kernels that read the same large value with the same loops."""
        shared: dict[Value, list[int]] = {}
        for home, cluster in self.clusters.items():
            if not cluster.fuses:
                continue
            for i in cluster.ops:
                for value in self.ops[i].operands:
                    for origin in self.origins(value):
                        if origin not in self.constants and home not in shared.setdefault(origin, []):
                            shared[origin].append(home)
        for value, homes in sorted(shared.items(), key=lambda pair: (-self.bytes(pair[0]), pair[0].name)):
            for k, one in enumerate(homes):
                for other in homes[k + 1 :]:
                    a, b = self.cluster_of[one], self.cluster_of[other]
                    if a != b and self._alike(a, b, value):
                        self.merge(a, b, value, self.ops[max(self.clusters[b].ops)], beside=True)

    def _alike(self, a: int, b: int, value: Value) -> bool:
        sizes: list[int] = []
        for home in (a, b):
            maker = self.graph.producer(value)
            if maker is not None and self.cluster_of[self.number[maker.name]] == home:
                return False
            sizes.append(max(self.count(root) for root in self.roots(self.clusters[home].ops)))
        return sizes[0] == sizes[1] or max(sizes) == self.count(value)

    def _ordered(self) -> tuple[Step, ...]:
        """Return the clusters in an order in which they can run, close to that of the program."""
        left = dict(sorted(self.clusters.items(), key=lambda item: max(item[1].ops)))
        steps: list[Step] = []
        done = 0
        while left:
            home = next(one for one, cluster in left.items() if not cluster.before & ~done)
            step = self._step(home, left.pop(home))
            done |= 1 << home
            if step is not None:
                steps.append(step)
        return tuple(steps)

    def _step(self, home: int, cluster: _Cluster) -> Step | None:
        op = self.ops[cluster.ops[0]]
        role = self.prepared.roles[op.name]
        if role is Role.PLACED:
            return None
        if role is Role.ANCHOR:
            return self.prepared.anchors[op.name]
        if role is Role.FOREIGN:
            return Foreign(op)
        expressions = self._expressed(home)
        ops = tuple(self.ops[i] for i in cluster.ops)
        again = tuple(
            one for one in visible(cluster.ops, self.prepared, self.inlined) if self.number[one.name] in self.inlined
        )
        return FusionGroup(ops, tuple(loaded(expressions)), cluster.roots, self._kind(ops, expressions), again)

    def _kind(self, ops: Sequence[Op], expressions: Expressions) -> str:
        if expressions.reductions:
            return which_way(expressions, self.sizes)
        if any(node.load is not None and node.load.gathered for node in expressions.nodes):
            return "gather"
        return "copy" if all(is_copy(op) or op.kind == "concat" for op in ops) else "elementwise"


def _bits(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
