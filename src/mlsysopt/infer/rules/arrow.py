"""Writing the draw of a joint Gaussian block: groups of cells that are independent given a few shared numbers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mlsysopt.infer.analysis.linear import Term
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Get, Site, Vector, call
from mlsysopt.infer.rules.linear_gaussian import Equation, is_flat, reached, uses_index, varies
from mlsysopt.infer.rules.plates import Layout, Places
from mlsysopt.infer.runtime import gaussian

__all__ = ["write_arrow"]

ONE = Const(1)

# Names of arrays in what is written: as in `draw_arrow`, and buffers for the coefficients of one equation.
A, B, U, Q, H = "group_q", "group_link", "group_h", "block_q", "block_h"
INNER, ROW = "group_row", "block_row"


@dataclass(frozen=True, slots=True)
class _Part:
    """A term with its place as text: `inner` in a group, else among the shared numbers."""

    term: Term
    inner: bool
    at: str
    coefficient: str


def write_arrow(
    module: Module, name: str, layout: Layout, found: Sequence[Equation], parts: Sequence[str] = (), *, most: int
) -> None:
    """Write the update of a block.

    Args:
        module: File that it goes into.
        name: Of the function.
        layout: Of the block.
        found: What the sites say about it.
        parts: Functions that update it part by part, where it shares more than `most` numbers.
        most: As said; without parts the number above which it fails.
    """
    with module.function(name, ("rng",)) as f:
        _Arrow(f, layout, name, most).write(found, parts)


class _Arrow:
    def __init__(self, f: Writer, layout: Layout, name: str, most: int) -> None:
        self.f, self.layout, self.name, self.most = f, layout, name, most
        self.places = Places(f, layout)
        # Groups of one number, read by plain terms: their statistics need no dimension inside of the group.
        self.single = False

    def write(self, found: Sequence[Equation], parts: Sequence[str]) -> None:
        f = self.f
        k, d = self.places.sizes()
        if not d.isdigit():
            with f.block(f"if {d} > {self.most}:"):
                for one in parts:
                    f.line(f"status = {f.module.call(one, f, 'rng')}")
                    with f.block("if status != 0:"):
                        f.line("return 1")
                f.line("return 0" if parts else "return 1")
        rows = any(self._is_row(one) for one in found)
        self.single = k == "1" and not rows
        self._statistics(k, d, rows)
        for one in found:
            if one.index:
                self._vector(one)
            elif self._is_stable(one):
                self._remembered(one)
            else:
                self._plain(one)
        self._untouched()
        if self.layout.plates:
            function = gaussian.draw_single_arrow if self.single else gaussian.draw_arrow
            draw = f"{f.use(function)}(rng, {A}, {B}, {U}, {Q}, {H})"
        else:
            draw = f"{f.use(gaussian.draw_dense)}(rng, {Q}, {H})"
        f.line(f"status = {draw}")
        with f.block("if status != 0:"):
            f.line("return status" if len(self.layout.block) == 1 else "return 1")
        self._results()
        f.line("return 0")

    def _statistics(self, k: str, d: str, rows: bool) -> None:
        f, layout = self.f, self.layout
        if layout.plates:
            lengths = [self.places.groups(one) for one in layout.plates]
            n = f.let(lengths[0] if len(lengths) == 1 else f"max({', '.join(lengths)})", "n")
            shapes = (n, f"({n}, {d})", n) if self.single else (f"({n}, {k}, {k})", f"({n}, {k}, {d})", f"({n}, {k})")
            for one, shape in zip((A, B, U), shapes, strict=True):
                f.line(f"{one} = np.zeros({shape})")
        f.line(f"{Q} = np.zeros(({d}, {d}))")
        f.line(f"{H} = np.zeros({d})")
        if rows:
            f.line(f"{ROW} = np.zeros({d})")
            if layout.plates:
                f.line(f"{INNER} = np.zeros({k})")

    # Equations.

    def _is_row(self, one: Equation) -> bool:
        return bool(one.index) or any(term.over for term in one.terms)

    def _inner(self, one: Equation) -> list[Get]:
        """Return the cells of groups that an equation reads, those that it always reads first."""
        terms = [term for term in one.terms if term.get.variable in self.layout.rows]
        return [reached(term) for term in sorted(terms, key=lambda term: reached(term) != term.get)]

    def _plain(self, one: Equation) -> None:
        f = self.f
        weight = self._weight(one)
        with f.site(one.site):
            weight = weight or f.let(f.value(one.precision or ONE), "w")
            r = f.let(f.value(one.target), "r")
            self._add(one, weight, r)

    def _weight(self, one: Equation) -> str:
        """Write the precision in front of the loops where it is the same for all visits; return its name, or ""."""
        assert one.precision is not None
        return "" if varies(one.precision, one.site) else self.f.let(self.f.value(one.precision), "w")

    def _add(self, one: Equation, w: str, r: str) -> None:
        inner = self._inner(one)
        g = self.places.group(inner) if inner else ""
        if self._is_row(one):
            self._clear(bool(inner))
            self._fill(one, "")
            self._add_row(g, w, r)
            return
        parts = self._parts(one)
        scaled = [self.f.let(_product(w, part.coefficient), "c") for part in parts]
        for i, part in enumerate(parts):
            self.f.line(f"{self._right(part, g)} += {_product(scaled[i], r)}")
            for j in range(i + 1):
                self._add_pair(parts[i], parts[j], g, _product(scaled[i], parts[j].coefficient))

    def _parts(self, one: Equation) -> list[_Part]:
        terms = sorted(one.terms, key=lambda term: self.layout.order.index(term.get.variable))
        found: list[_Part] = []
        for term in terms:
            inner, at = self.places.place(reached(term))
            if not at.isdigit():
                at = self.f.let(at, "p")
            found.append(_Part(term, inner, at, self.f.let(self.f.value(term.coefficient), "c")))
        return found

    def _right(self, part: _Part, g: str) -> str:
        return self._cell(U, g, part.at) if part.inner else f"{H}[{part.at}]"

    def _cell(self, array: str, g: str, i: str, j: str = "") -> str:
        """Return a statistic of a group as text; `i` is a place inside of it."""
        inside = [i] if array != A else [i, j]
        if self.single:
            inside = []
        return f"{array}[{', '.join([g, *inside, *([j] if array == B else [])])}]"

    def _add_pair(self, one: _Part, other: _Part, g: str, text: str, *, into: str = "") -> None:
        """Add to the lower triangle; `one` stands behind `other` unless they are cells of the same array."""
        f, same = self.f, one is other
        if other.inner and not one.inner:
            f.line(f"{self._cell(B, g, other.at, one.at)} += {text}")
            return
        if same or one.term.get.variable != other.term.get.variable:
            cell = self._cell(A, g, one.at, other.at) if one.inner else f"{into or Q}[{one.at}, {other.at}]"
            f.line(f"{cell} += {text}")
            return
        matrix = f"{A}[{g}, " if one.inner else f"{into or Q}["
        value = f.let(text, "c")
        with f.block(f"if {one.at} == {other.at}:"):
            f.line(f"{matrix}{one.at}, {one.at}] += 2.0 * {value}")
        with f.block("else:"):
            f.line(f"{matrix}max({one.at}, {other.at}), min({one.at}, {other.at})] += {value}")

    def _clear(self, inner: bool) -> None:
        self.f.line(f"{ROW}[:] = 0.0")
        if inner:
            self.f.line(f"{INNER}[:] = 0.0")

    def _fill(self, one: Equation, factor: str) -> None:
        """Write the coefficients of an equation into `row` and `inner`."""
        for term in one.terms:
            with self._over(term):
                inner, at = self.places.place(reached(term))
                text = _product(factor, self.f.value(term.coefficient))
                self.f.line(f"{INNER if inner else ROW}[{at}] += {text}")

    @contextmanager
    def _over(self, term: Term) -> Generator[None]:
        with ExitStack() as stack:
            for one in term.over:
                low, high = self.f.value(one.low), self.f.value(one.high)
                stack.enter_context(self.f.block(f"for {one.index} in range({low}, {high}):"))
            yield

    def _add_row(self, g: str, w: str, r: str) -> None:
        f = self.f
        if g:
            f.line(f"{f.use(gaussian.add_arrow_row)}({A}[{g}], {B}[{g}], {U}[{g}], {Q}, {H}, {INNER}, {ROW}, {w}, {r})")
        else:
            f.line(f"{f.use(gaussian.add_dense_row)}({Q}, {H}, {ROW}, {w}, {r})")

    def _vector(self, one: Equation) -> None:
        """Write a vector's numbers, made independent by the inverse root of its covariance matrix."""
        f, covariance = self.f, one.site.args[1]
        value = one.site.value
        assert isinstance(covariance, Vector) and isinstance(value, Vector)
        outside = not any(uses_index(covariance, loop.index) for loop in one.site.loops)
        root = f.let(f"{f.use(gaussian.inverse_root)}({f.vector(covariance)})", "root") if outside else ""
        with f.site(one.site):
            root = root or f.let(f"{f.use(gaussian.inverse_root)}({f.vector(covariance)})", "root")
            inner = self._inner(one)
            g = self.places.group(inner) if inner else ""
            i, r = f.fresh("i"), f.fresh("r")
            with f.block(f"for {i} in range({f.value(value.size)}):"):
                self._clear(bool(inner))
                f.line(f"{r} = 0.0")
                with f.block(f"for {one.index} in range({i} + 1):"):
                    factor = f.let(f"{root}[{i}, {one.index}]", "c")
                    f.line(f"{r} += {_product(factor, f.value(one.target))}")
                    self._fill(one, factor)
                self._add_row(g, "1.0", r)

    # What stays the same from sweep to sweep.

    def _is_stable(self, one: Equation) -> bool:
        """Whether the coefficients are data that nothing redraws, so that their products can be kept."""
        program = self.layout.analysis.program
        if not one.site.observed or one.precision is None or varies(one.precision, one.site) or self._inner(one):
            return False
        if any(program.variables[name].ragged for name in self.layout.shared):
            return False
        parts = [part for term in one.terms for part in (term.coefficient, *term.get.at)]
        parts += [part for term in one.terms for over in term.over for part in (over.low, over.high)]
        parts += [guard.condition for guard in one.site.guards]
        parts += [part for loop in one.site.loops for part in (loop.low, loop.high)]
        said = {name for part in parts for name in reads(part)}
        redrawn = {name for site in program.sites if site.variable for name in (site.variable, *reads(site.value))}
        return all(program.variables[name].input for name in said) and not said & redrawn

    def _remembered(self, one: Equation) -> None:
        """Write sums of products once per chain, and every sweep only what depends on the data and the precision."""
        f = self.f
        # Beyond `most` they are not used, and their square would not fit into memory.
        d = call("min", self.layout.dimension(), Const(self.most))
        kept, ready = (f"t_{self.name}_{what}{one.site.number}" for what in ("products", "ready"))
        f.module.tune(Tuned(ready, start=0.0), f)
        products = f.module.tune(Tuned(kept, size=call("*", d, d), start=0.0), f)
        matrix = f.let(f"{products}.reshape({Q}.shape)", "products")
        w = self._weight(one)
        with f.block(f"if {ready}[0] == 0.0:"):
            f.line(f"{ready}[0] = 1.0")
            nothing = f.let(f"np.zeros({H}.shape[0])", "nothing") if self._is_row(one) else ""
            with f.site(one.site):
                if nothing:
                    self._clear(False)
                    self._fill(one, "")
                    f.line(f"{f.use(gaussian.add_dense_row)}({matrix}, {nothing}, {ROW}, 1.0, 0.0)")
                else:
                    self._add_products(one, matrix)
        i, j = f.fresh("i"), f.fresh("i")
        with f.block(f"for {i} in range({H}.shape[0]):"), f.block(f"for {j} in range({i} + 1):"):
            f.line(f"{Q}[{i}, {j}] += {w} * {matrix}[{i}, {j}]")
        with f.site(one.site):
            r = f.let(_product(w, f.value(one.target)), "r")
            for term in one.terms:
                with self._over(term):
                    _, at = self.places.place(reached(term))
                    f.line(f"{H}[{at}] += {_product(f.value(term.coefficient), r)}")

    def _add_products(self, one: Equation, matrix: str) -> None:
        parts = self._parts(one)
        for i, part in enumerate(parts):
            for other in parts[: i + 1]:
                self._add_pair(part, other, "", _product(part.coefficient, other.coefficient), into=matrix)

    # Results.

    def _untouched(self) -> None:
        """Give cells that no line draws a precision, so that they stand in nobody's way."""
        f = self.f
        for name in self.layout.order:
            flat, plate = is_flat(name, self.layout.analysis), name in self.layout.rows
            if not f.variable(name).rank or (flat and not plate):
                continue
            offset, g = self.places.offsets[name], f.fresh("g")
            size = f"{A}.shape[0]" if plate else self.places.cells(name)
            first = self.places.groups(name) if flat else "0"
            with f.block(f"for {g} in range({first}, {size}):"):
                if not plate:
                    self._one_where_zero(f"{Q}[{offset} + {g}, {offset} + {g}]")
                elif not self.layout.rows[name]:
                    self._one_where_zero(self._cell(A, g, offset, offset))
                else:
                    i = f.fresh("i")
                    with f.block(f"for {i} in range({offset}, {offset} + {f.array(f'v_{name}')}.shape[1]):"):
                        self._one_where_zero(f"{A}[{g}, {i}, {i}]")

    def _one_where_zero(self, cell: str) -> None:
        with self.f.block(f"if {cell} == 0.0:"):
            self.f.line(f"{cell} = 1.0")

    def _results(self) -> None:
        for name in self.layout.block:
            for site in self.layout.analysis.program.sites_of(name):
                with self.f.site(site):
                    self._take(site)

    def _take(self, site: Site) -> None:
        f, value = self.f, site.value
        if isinstance(value, Vector):
            with f.block(f"for {value.index} in range({f.value(value.size)}):"):
                self._take_cell(value.body)
        else:
            self._take_cell(value)

    def _take_cell(self, get: Expr | Vector) -> None:
        assert isinstance(get, Get)
        inner, at = self.places.place(get)
        self.f.line(f"{self.f.value(get)} = {self._cell(U, self.places.group([get]), at) if inner else f'{H}[{at}]'}")


def _product(*texts: str) -> str:
    """Return a product as text, without factors 1."""
    return " * ".join(one for one in texts if one not in ("1", "1.0", "")) or "1.0"
