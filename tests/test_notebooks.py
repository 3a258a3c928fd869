"""Every notebook runs from top to bottom, without a person: in this process, where TensorFlow is imported already."""

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from babysit import caviar

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
AGAIN = """
first = panda
try:
    {main}
except ValueError as error:
    refusal = str(error)
assert panda is first is babysit.attach() and panda.state == 'running'
assert "babysit.attach()" in refusal
"""


def display(*shown):
    """Makes what a page would show."""
    for one in shown:
        if hasattr(one, "_repr_mimebundle_"):
            assert one._repr_mimebundle_()


def run(source, names):
    """Runs a cell; shows its last line, if that is worth something."""
    *before, last = ast.parse(source).body
    if isinstance(last, ast.Expr):
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        display(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    else:
        exec(compile(source, "cell", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_run(path, monkeypatch):
    monkeypatch.setattr(plt, "show", plt.close)
    monkeypatch.setattr(caviar, "find_spec", lambda name: None)  # Ray has tests of its own
    monkeypatch.setattr(caviar, "_EVERY_S", 0.05)
    plt.switch_backend("agg")
    names = {"display": display, "__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            run(cell.source, names)
            if path is NOTEBOOKS[0] and "panda.fit(" in cell.source:  # run again it starts no second training
                run(AGAIN.format(main=cell.source.replace("\n", "\n    ")), names)
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_has_at_most_a_dozen_cells_and_is_in_the_index(path):
    assert len(nbformat.read(path, as_version=4).cells) <= 12
    assert f"({path.name})" in (path.parent / "README.md").read_text()
