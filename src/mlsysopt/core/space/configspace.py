"""To ConfigSpace and back, as far as ConfigSpace can say the same."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MissingExtra, SpaceError
from mlsysopt.core.space.expressions import Expression
from mlsysopt.core.space.parameters import Bool, Choice, Float, Int, Parameter, Permutation

if TYPE_CHECKING:
    from ConfigSpace import ConfigurationSpace

    from mlsysopt.core.space.space import Space

__all__ = ["from_configspace", "to_configspace"]

# ConfigSpace has steps only as lists of values.
_LONGEST_LIST = 10_000


def _library() -> Any:
    try:
        import ConfigSpace
    except ImportError as error:
        raise MissingExtra.of("converting to and from ConfigSpace", "space") from error
    return ConfigSpace


def to_configspace(space: Space) -> ConfigurationSpace:
    """Return a space as a ConfigSpace.

    Constraints between two parameters (`a <= b`) become forbidden relations; conditions may compare
    one parameter with a constant, or be a bare name, joined by `and`.

    Raises:
        MissingExtra: ConfigSpace is not installed.
        SpaceError: a parameter, constraint or condition that ConfigSpace cannot express.
    """
    library = _library()
    found = library.ConfigurationSpace()
    for parameter in space:
        found.add(_hyperparameter(library, parameter))
    for name in space.conditional:
        condition = space.conditions[name]
        parts = [_condition(library, found, space, name, condition, part) for part in _conjuncts(condition.tree)]
        found.add(parts[0] if len(parts) == 1 else library.AndConjunction(*parts))
    for constraint in space.constraints:
        for left, operator, right in _relations(constraint):
            relations: dict[type[ast.cmpop], Any] = {
                ast.LtE: library.ForbiddenGreaterThanRelation,
                ast.GtE: library.ForbiddenLessThanRelation,
                ast.NotEq: library.ForbiddenEqualsRelation,
            }
            found.add(relations[operator](found[left], found[right]))
    return found


def _hyperparameter(library: Any, parameter: Parameter) -> Any:
    match parameter:
        case Permutation():
            raise SpaceError(f"parameter {parameter.name!r}: ConfigSpace has no permutations")
        case Int() | Float() if parameter.special:
            raise SpaceError(f"parameter {parameter.name!r}: ConfigSpace has no special values beside a range")
        case Bool():
            return library.CategoricalHyperparameter(parameter.name, [False, True], default_value=parameter.default)
        case Choice():
            return library.CategoricalHyperparameter(
                parameter.name, list(parameter.choices), default_value=parameter.default
            )
        case Int() if parameter.step == 1:
            return library.UniformIntegerHyperparameter(
                parameter.name, parameter.low, parameter.high, default_value=parameter.default, log=parameter.log
            )
        case Float() if parameter.step is None:
            return library.UniformFloatHyperparameter(
                parameter.name, parameter.low, parameter.high, default_value=parameter.default, log=parameter.log
            )
        case Int() | Float() if (parameter.count or 0) > _LONGEST_LIST:
            raise SpaceError(f"parameter {parameter.name!r}: {parameter.count} steps are too many for ConfigSpace")
        case Int():
            values: list[Any] = list(range(parameter.low, parameter.high + 1, parameter.step))
        case Float():
            values = [parameter.grid_value(i) for i in range(parameter.count or 1)]
    return library.OrdinalHyperparameter(parameter.name, values, default_value=parameter.default)


def _conjuncts(tree: ast.expr) -> list[ast.expr]:
    return tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]


def _condition(library: Any, found: Any, space: Space, name: str, condition: Expression, part: ast.expr) -> Any:
    kinds: dict[type[ast.cmpop], Any] = {
        ast.Eq: library.EqualsCondition,
        ast.NotEq: library.NotEqualsCondition,
        ast.Lt: library.LessThanCondition,
        ast.Gt: library.GreaterThanCondition,
    }
    match part:
        case ast.Name(id=parent) if isinstance(space[parent], Bool):
            return library.EqualsCondition(found[name], found[parent], True)
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id=parent)) if isinstance(space[parent], Bool):
            return library.EqualsCondition(found[name], found[parent], False)
        case ast.Compare(left=ast.Name(id=parent), ops=[operator], comparators=[ast.Constant(value=value)]) if (
            type(operator) in kinds
        ):
            return kinds[type(operator)](found[name], found[parent], value)
        case _:
            raise SpaceError(f"parameter {name!r}: ConfigSpace cannot express the condition '{condition.text}'")


def _relations(constraint: Expression) -> list[tuple[str, type[ast.cmpop], str]]:
    relations: list[tuple[str, type[ast.cmpop], str]] = []
    for part in _conjuncts(constraint.tree):
        names = [part.left, *part.comparators] if isinstance(part, ast.Compare) else []
        kinds = [type(operator) for operator in part.ops] if isinstance(part, ast.Compare) else []
        if not names or not {*kinds} <= {ast.LtE, ast.GtE, ast.NotEq}:
            names = []
        pairs = [
            (a.id, kind, b.id)
            for a, kind, b in zip(names, kinds, names[1:], strict=False)
            if isinstance(a, ast.Name) and isinstance(b, ast.Name)
        ]
        if not pairs or len(pairs) < len(kinds):
            raise SpaceError(
                f"ConfigSpace cannot express the constraint '{constraint.text}', only a <= b, a >= b, a != b"
            )
        relations += pairs
    return relations


def from_configspace(given: ConfigurationSpace) -> Space:
    """Return a ConfigSpace as a space.

    Raises:
        MissingExtra: ConfigSpace is not installed.
        SpaceError: a hyperparameter, condition or forbidden clause that is not known here.
    """
    from mlsysopt.core.space.space import Space

    library = _library()
    parameters = [_parameter(library, one) for one in given.values()]
    conditions: dict[str, str] = {}
    every: list[Any] = list(given.conditions)
    for one in every:
        name = one.child.name if hasattr(one, "child") else one.components[0].child.name
        text = _condition_text(library, one)
        conditions[name] = f"({conditions[name]}) and ({text})" if name in conditions else text
    return Space(
        parameters,
        constraints=[_forbidden_text(library, one) for one in given.forbidden_clauses],
        conditions=conditions,
    )


def _parameter(library: Any, one: Any) -> Parameter:
    name, default = one.name, _plain(one.default_value)
    if isinstance(one, library.UniformIntegerHyperparameter):
        return Int(name, int(one.lower), int(one.upper), default=default, log=one.log)
    if isinstance(one, library.UniformFloatHyperparameter):
        return Float(name, float(one.lower), float(one.upper), default=default, log=one.log)
    if isinstance(one, library.OrdinalHyperparameter):
        return Choice(name, tuple(_plain(value) for value in one.sequence), default=default)
    if isinstance(one, library.Constant):
        return Choice(name, (_plain(one.value),))
    if isinstance(one, library.CategoricalHyperparameter):
        choices = tuple(_plain(value) for value in one.choices)
        if set(map(type, choices)) == {bool}:
            return Bool(name, default=bool(default))
        return Choice(name, choices, default=default)
    raise SpaceError(f"hyperparameter {name!r}: {type(one).__name__} is not known here")


def _condition_text(library: Any, one: Any) -> str:
    for kind, word in ((library.AndConjunction, " and "), (library.OrConjunction, " or ")):
        if isinstance(one, kind):
            return word.join(f"({_condition_text(library, part)})" for part in one.components)
    if isinstance(one, library.InCondition):
        return " or ".join(f"{one.parent.name} == {_plain(value)!r}" for value in one.values)
    for kind, word in (
        (library.EqualsCondition, "=="),
        (library.NotEqualsCondition, "!="),
        (library.LessThanCondition, "<"),
        (library.GreaterThanCondition, ">"),
    ):
        if isinstance(one, kind):
            return f"{one.parent.name} {word} {_plain(one.value)!r}"
    raise SpaceError(f"condition {one}: {type(one).__name__} is not known here")


def _forbidden_text(library: Any, one: Any) -> str:
    relations = (
        (library.ForbiddenGreaterThanRelation, "<="),
        (library.ForbiddenLessThanRelation, ">="),
        (library.ForbiddenEqualsRelation, "!="),
    )
    for kind, word in relations:
        if isinstance(one, kind):
            return f"{one.left.name} {word} {one.right.name}"
    return f"not ({_clause(library, one)})"


def _clause(library: Any, one: Any) -> str:
    if isinstance(one, library.ForbiddenAndConjunction):
        return " and ".join(f"({_clause(library, part)})" for part in one.components)
    if isinstance(one, library.ForbiddenEqualsClause):
        return f"{one.hyperparameter.name} == {_plain(one.value)!r}"
    if isinstance(one, library.ForbiddenInClause):
        return " or ".join(f"{one.hyperparameter.name} == {_plain(value)!r}" for value in sorted(one.values, key=str))
    raise SpaceError(f"forbidden clause {one}: {type(one).__name__} is not known here")


def _plain(value: Any) -> Any:
    """Return a numpy scalar as the plain value that it holds."""
    return value.item() if hasattr(value, "item") else value
