"""The shape of the code: short functions, short argument lists, a short command line, no second name for a file."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "adabldm"
LONGEST_FUNCTION, MOST_ARGUMENTS, LONGEST_COMMAND_LINE = 60, 8, 200
CALL = "pipeline.py:AdaBLDMPipeline.__call__"
"""Its arguments are those of diffusers' pipelines."""


def functions() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of the package by "file:Class.name"."""
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}

    def walk(node: ast.AST, place: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = getattr(child, "name", None)
            inner = f"{place}{'.' if not place.endswith(':') else ''}{name}" if name else place
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found[inner] = child
            walk(child, inner)

    for path in sorted(SOURCE.rglob("*.py")):
        walk(ast.parse(path.read_text(encoding="utf-8")), f"{path.relative_to(SOURCE).as_posix()}:")
    return found


def test_functions_are_short() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions().items()}
    assert len(lengths) > 300
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION and name != CALL} == {}


def test_argument_lists_are_short() -> None:
    def count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        arguments = node.args
        return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])

    counts = {name: count(node) for name, node in functions().items()}
    # A constructor's networks are what diffusers registers, one argument each.
    allowed = {CALL, "pipeline.py:AdaBLDMPipeline.__init__"}
    assert {name: n for name, n in counts.items() if n > MOST_ARGUMENTS and name not in allowed} == {}


def test_the_command_line_is_short() -> None:
    assert len((SOURCE / "app" / "cli.py").read_text(encoding="utf-8").splitlines()) <= LONGEST_COMMAND_LINE


def test_no_condition_of_a_comprehension_builds_a_collection() -> None:
    """It would be built for every element: of ten thousand files, a hundred million look-ups."""

    def builds(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"set", "frozenset", "dict", "list", "tuple", "sorted"}
        )

    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for condition in node.ifs if isinstance(node, ast.comprehension) else []:
                compared = [part for part in ast.walk(condition) if isinstance(part, ast.Compare)]
                if any(builds(value) for part in compared for value in part.comparators):
                    found.append(f"{path.relative_to(SOURCE)}:{condition.lineno}")
    assert found == []
