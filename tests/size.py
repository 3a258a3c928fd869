"""The size of the package: `make size`. Blank lines, comments and docstrings do not count."""

import ast
from collections import Counter
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "babysit"
LARGEST = 8
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text):
    """The numbers of the lines that hold code."""
    tree = ast.parse(text)
    lines = enumerate(text.splitlines(), 1)
    code = {number for number, line in lines if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return code


def body_lengths(text, code):
    """Lines of code in the body of each function, without its head."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield len(code & set(range(node.body[0].lineno, node.end_lineno + 1)))


def main():
    files, bodies = Counter(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        code = code_lines(text)
        files[path.relative_to(PACKAGE)] = len(code)
        bodies += body_lengths(text, code)
    folders = Counter()
    for path, lines in files.items():
        folders[f"{path.parts[0]}/" if len(path.parts) > 1 else "babysit"] += lines
    print("lines of code, by folder")
    for name, lines in [*folders.most_common(), ("all", files.total())]:
        print(f"  {name:34}{lines:7,}")
    print("largest files")
    for path, lines in files.most_common(LARGEST):
        print(f"  {path!s:34}{lines:7,}")
    print(f"median body of {len(bodies):,} functions: {median(bodies):g} lines")


if __name__ == "__main__":
    main()
