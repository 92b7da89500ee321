"""The meaning of a Python file, hashed: its syntax tree without what cannot change a result.

Left out are comments, formatting, docstrings, annotations, imports that nothing but an annotation
uses and the order of the others, and prose (``help``, ``title``, ``paper`` ... of a declaration).
The tree is written down by our own rules, since Python's own texts of it differ from version to
version.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.schema import canonical_hash

# Keywords of Facts(...) and param(...) that are shown, and never read by an algorithm.
PROSE = {
    "Facts": {"title", "paper", "citation", "licence"},
    "param": {"help", "published"},
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_IMPORTS = (ast.Import, ast.ImportFrom)


def source_hash(path: Path) -> str:
    """sha256 of a file's meaning and of the helpers beside it, files or folders, that it imports,
    directly or through another: a change of one of them is another method. Where they lie and what
    the file itself is called is no part of it.

    Raises:
        SyntaxError: one of the files is not Python.
    """
    trees, waiting = {path: meaning(path)}, [path]
    while waiting:
        for name in sorted(_imported(trees[waiting.pop()])):
            for helper in _files(path.parent, name):
                if helper not in trees:
                    trees[helper] = meaning(helper)
                    waiting.append(helper)
    helpers = {
        helper.relative_to(path.parent).as_posix(): written(tree)
        for helper, tree in trees.items()
        if helper != path
    }
    return canonical_hash([written(trees[path]), helpers])


def meaning(path: Path) -> ast.Module:
    """The file's syntax tree without what cannot change a result."""
    tree: ast.Module = _Stripped().visit(ast.parse(path.read_bytes()))
    imports = [node for node in tree.body if isinstance(node, _IMPORTS)]
    rest = [node for node in tree.body if not isinstance(node, _IMPORTS)]
    used = {node.id for part in rest for node in ast.walk(part) if isinstance(node, ast.Name)}
    tree.body = [*_needed(imports, used), *rest]
    return tree


def written(node: Any) -> Any:
    """A syntax tree as plain data: the kind of each node and its fields that say something."""
    if isinstance(node, list):
        return [written(entry) for entry in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Constant):  # without its kind, the u of u"..."
        return [type(node.value).__name__, ascii(node.value)]  # 1, 1.0, True and "1" are four
    fields = {
        name: written(value) for name, value in ast.iter_fields(node) if value not in (None, [])
    }
    return [type(node).__name__, fields]


class _Stripped(ast.NodeTransformer):
    """Takes out docstrings, annotations, prose, and what is imported for type checkers alone."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [entry for entry in body if not _is_text(entry)]
            node.body = kept or [ast.Pass()] if not isinstance(node, ast.Module) else kept  # type: ignore[attr-defined]
        if isinstance(node, _FUNCTIONS):
            node.returns, node.type_comment = None, None
        if isinstance(node, ast.arg):
            node.annotation, node.type_comment = None, None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """``x: int = 3`` is ``x = 3``; of ``x: int``, a field of a class, the name stays."""
        self.generic_visit(node)
        if node.value is None:
            return ast.Expr(node.target)
        return ast.Assign(targets=[node.target], value=node.value)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return node.orelse
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func).rpartition(".")[2]
        prose = PROSE.get(name, set())
        node.keywords = [word for word in node.keywords if word.arg not in prose]
        return node


def _is_text(node: ast.AST) -> bool:
    """A docstring, or a text that stands for a comment."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _needed(imports: list[ast.Import | ast.ImportFrom], used: set[str]) -> list[ast.stmt]:
    """One import per name that the code uses, in the order of their texts; of helpers beside it
    all, since one may be there for what it does when it is imported, or be passed on."""
    single: dict[str, ast.stmt] = {}
    for node in imports:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            beside = isinstance(node, ast.ImportFrom) and node.level
            if bound in used or alias.name == "*" or beside:
                one: ast.stmt = (
                    ast.Import([alias])
                    if isinstance(node, ast.Import)
                    else ast.ImportFrom(node.module, [alias], node.level)
                )
                single[ast.unparse(one)] = one
    return [single[text] for text in sorted(single)]


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names that may be files or folders beside: ``from ._a.b import x``, ``from . import _a``,
    anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, _IMPORTS):
            yield from (getattr(node, "module", None) or "").split(".")
            for alias in node.names:
                yield from alias.name.split(".")


def _files(folder: Path, name: str) -> list[Path]:
    """The helpers of that name: a file, or all of a folder."""
    file = folder / f"{name}.py"
    if file.is_file() or not name:
        return [file] if name else []
    return sorted((folder / name).rglob("*.py"))
