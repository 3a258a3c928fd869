"""Imports run downward only, and heavy neighbours stay in the layers meant for them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "babysit"
LAYERS = {
    "scales": 0,
    "record": 0,
    "lock": 0,
    "reader": 1,
    "live": 1,
    "anatomy": 1,
    "floats": 1,
    "rates": 1,
    "dials": 1,
    "hyperparameters": 1,
    "callbacks": 1,
    "variables": 1,
    "own_fit": 1,
    "sampler": 1,
    "pieces": 1,
    "feeds": 1,
    "streams": 1,
    "arrays": 1,
    "host": 1,
    "data": 1,
    "steps": 1,
    "history": 1,
    "journal": 1,
    "checkpoints": 1,
    "shelf": 1,
    "architecture": 1,
    "environment": 1,
    "demos": 1,
    "sanity": 1,
    "export": 2,
    "stretches": 2,
    "script": 2,
    "steering": 2,
    "validation": 2,
    "subject": 2,
    "keeping": 2,
    "vitals": 2,
    "probe": 2,
    "waiting": 2,
    "hand": 2,
    "edits": 2,
    "memory": 2,
    "fits": 2,
    "trainer": 2,
    "timeline": 2,
    "progress": 3,
    "driver": 3,
    "viewer": 3,
    "panda": 3,
    "replay": 3,
    "together": 3,
    "ui": 4,
    "ui.trace": 4,
    "ui.marks": 4,
    "ui.course": 4,
    "ui.other": 4,
    "ui.ticks": 4,
    "ui.theme": 4,
    "ui.image": 4,
    "ui.panel": 4,
    "ui.view": 4,
    "ui.frame": 4,
    "ui.labels": 4,
    "ui.words": 4,
    "ui.curves": 4,
    "ui.watch": 4,
    "ui.bar": 4,
    "ui.chart": 4,
    "ui.controls": 4,
    "ui.dial": 4,
    "ui.couplings": 4,
    "ui.sliders": 4,
    "ui.head": 4,
    "ui.transport": 4,
    "ui.logbook": 4,
    "ui.tree": 4,
    "ui.places": 4,
    "ui.vitals": 4,
    "ui.dashboard": 4,
    "ui.picture": 4,
    "ui.overlay": 4,
    "ui.shared": 4,
    "": 5,
    "__main__": 5,
}
# The imports upwards: `dashboard()` and `picture()` show the screen, and only then need it.
UPWARD = {
    ("panda", "ui.dashboard"),
    ("panda", "ui.picture"),
    ("together", "ui.shared"),
    ("viewer", "ui.dashboard"),
}
WITHIN_RUN = {
    ("panda", "driver"),
    ("panda", "progress"),
    ("panda", "viewer"),
    ("replay", "panda"),
    ("together", "panda"),
    ("trainer", "edits"),
    ("trainer", "fits"),
    ("trainer", "hand"),
    ("trainer", "keeping"),
    ("trainer", "memory"),
    ("trainer", "steering"),
    ("trainer", "subject"),
    ("trainer", "validation"),
    ("trainer", "vitals"),
    ("trainer", "waiting"),
    ("edits", "keeping"),
    ("edits", "subject"),
    ("memory", "subject"),
    ("hand", "edits"),
    ("hand", "keeping"),
    ("hand", "steering"),
    ("hand", "subject"),
    ("hand", "waiting"),
    ("vitals", "probe"),
    ("vitals", "subject"),
    ("timeline", "trainer"),
}
WITHIN_RUN |= {("stretches", "export"), ("script", "export"), ("script", "stretches")}
# The dials, in the order in which they are made of one another.
DIALS = ("live", "anatomy", "floats", "rates", "dials")
WITHIN_DIALS = {(name, other) for i, name in enumerate(DIALS) for other in DIALS[:i]} - {("anatomy", "live")}
# What is kept stands on what keeps one.
WITHIN_SHELF = {("shelf", "checkpoints")}
# The kinds of data are one part in several files.
WITHIN_DATA = {
    ("feeds", "sampler"),
    ("streams", "feeds"),
    ("streams", "pieces"),
    ("arrays", "sampler"),
    ("arrays", "pieces"),
    ("host", "arrays"),
    ("host", "pieces"),
    ("data", "arrays"),
    ("data", "host"),
    ("data", "feeds"),
    ("data", "pieces"),
    ("data", "streams"),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    """The modules of ours that a file imports, by their place in the package."""
    names = {
        name.removeprefix("babysit").removeprefix(".") for name in imports(path) if name.split(".")[0] == "babysit"
    }
    return {name for name in names if name in LAYERS and name}


def test_every_module_has_its_layer():
    assert {name for name, _ in modules()} == set(LAYERS)


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_run_downward(name, path):
    for other in own(path):
        if (name, other) in UPWARD | WITHIN_RUN | WITHIN_DIALS | WITHIN_SHELF | WITHIN_DATA or {
            LAYERS[name],
            LAYERS[other],
        } == {4}:
            continue
        assert LAYERS[other] < LAYERS[name], f"{name} imports {other}"


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_heavy_neighbours_stay_where_they_belong(name, path):
    roots = {found.split(".")[0] for found in imports(path)}
    if not 1 <= LAYERS[name] <= 3 or name in ("checkpoints", "shelf"):
        assert not roots & {"tensorflow", "keras"}
    if LAYERS[name] != 4:
        assert not roots & {"ipywidgets", "matplotlib", "PIL"}


def test_the_package_docstring_is_its_map():
    import babysit

    for name in LAYERS:
        if name and name != "ui":
            assert f"`{name}`" in babysit.__doc__
    assert all(hasattr(babysit, name) for name in babysit.__all__)
