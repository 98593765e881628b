"""The size and shape of the two packages: lines, definitions, functions, comments, arrows, circles.

    python benchmarks/structure.py            the figures of this checkout
    python benchmarks/structure.py FOLDER     those of another one

Lines are all lines of the `.py` files. A body is a function with its signature and without its
docstring. An arrow is an import of one module by another; a circle is a set of modules that reach
each other.
"""

import argparse
import ast
import statistics
import tokenize
from pathlib import Path

PACKAGES = ("keras_se", "tuning")


def modules(root: Path) -> dict[str, Path]:
    """The modules of both packages by their dotted names."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its signature included and its docstring not."""
    return (function.end_lineno or function.lineno) - function.lineno + 1 - _docstring(function)


def docstring_lines(tree: ast.Module) -> int:
    """Lines of all docstrings."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    return sum(_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    text = node.body[0]
    return (text.end_lineno or text.lineno) - text.lineno + 1


def comment_lines(path: Path) -> int:
    """Lines that hold a comment."""
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})


def imported(tree: ast.Module, known: dict[str, Path]) -> set[str]:
    """The modules of the two packages that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & set(known)) or {node.module}
    return found & set(known)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other, each sorted."""
    reach = {name: set(to) for name, to in arrows.items()}
    for middle in arrows:
        for name in arrows:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    found = {frozenset({n, *(m for m in reach[n] if n in reach[m])}) for n in arrows}
    return sorted(sorted(group) for group in found if len(group) > 1)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", default=Path(__file__).parents[1], type=Path)
    arguments = parser.parse_args()
    known = modules(arguments.folder)
    trees = {name: ast.parse(path.read_text()) for name, path in known.items()}
    lines = {name: len(path.read_text().splitlines()) for name, path in known.items()}
    functions = {
        f"{name}.{node.name}": body(node)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    bodies = sorted(functions.values())
    top = [node for tree in trees.values() for node in tree.body]
    definitions = [n for n in top if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    classes = [n for n in definitions if isinstance(n, ast.ClassDef)]
    arrows = {name: imported(tree, known) - {name} for name, tree in trees.items()}
    total = sum(lines.values())
    comments = sum(map(comment_lines, known.values()))
    documented = sum(map(docstring_lines, trees.values()))
    print(f"files: {len(known)}, of which __init__: {_count(known.values(), '__init__.py')}")
    print(
        f"lines: {total}; of a file: median {statistics.median(lines.values()):g}, "
        f"largest {max(lines.values())}"
    )
    print(
        f"public definitions at top level: {sum(not n.name.startswith('_') for n in definitions)}"
        f"; classes {len(classes)}, dataclasses {sum(map(_is_dataclass, classes))}; "
        f"private functions {sum(n.name.startswith('_') for n in definitions)}"
    )
    print(
        f"functions: {len(bodies)}; body: median {statistics.median(bodies):g}, 90th percentile "
        f"{bodies[int(0.9 * len(bodies))]}, largest {bodies[-1]}"
    )
    above = sorted(((size, name) for name, size in functions.items() if size > 40), reverse=True)
    print(f"bodies above 40 lines: {', '.join(f'{name} {n}' for n, name in above) or 'none'}")
    print(f"docstrings: {documented / total:.1%} of the lines; comments: {comments / total:.1%}")
    print(f"arrows: {sum(map(len, arrows.values()))}; circles: {circles(arrows) or 'none'}")
    folders = {path.parent for path in known.values()}
    largest = max(len(list(folder.glob("*.py"))) for folder in folders)
    print(f"folders: {len(folders)}, the largest of {largest} files")


def _count(paths, name: str) -> int:
    return sum(path.name == name for path in paths)


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


if __name__ == "__main__":
    main()
