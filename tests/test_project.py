import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PINS = [Requirement(line) for line in LOCK.splitlines() if not line.startswith("#")]
ASKED = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
# What Colab ships, beside Python 3.12 and no JupyterLab.
COLAB = {"tensorflow": "2.20.0", "keras": "3.13.2", "ipywidgets": "7.7.1", "ipykernel": "6.17.1", "numpy": "2.0.2"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("asked", [Requirement(line) for line in ASKED], ids=str)
def test_lock_holds_what_the_project_asks_for(asked):
    versions = [version_of(pin) for pin in PINS if same_project(pin, asked)]
    assert versions, f"{asked.name} is not in requirements.lock: run `make lock`"
    assert all(asked.specifier.contains(version) for version in versions)


def test_project_gives_lower_bounds_alone():
    operators = {spec.operator for asked in ASKED for spec in Requirement(asked).specifier}
    assert operators == {">="}


def test_it_installs_beside_what_colab_ships():
    needed = {asked.name: asked.specifier for asked in map(Requirement, PROJECT["dependencies"])}
    assert [name for name, version in COLAB.items() if not needed[name].contains(version)] == []
    assert not {"jupyterlab", "voila"} & {*needed}


def test_lock_pins_exactly():
    assert [str(pin) for pin in PINS if not re.fullmatch(r"==[^*,]+", str(pin.specifier))] == []


def test_lock_names_no_index():
    assert re.findall(r".*(?://|--|file:|@).*", LOCK) == []


def test_environment_installs_the_lock_and_pins_nothing_itself():
    *from_conda, from_pip = ENVIRONMENT["dependencies"]
    assert [Requirement(name).name for name in from_conda] == ["python", "pip"]
    assert from_pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert "conda-forge" in ENVIRONMENT["channels"]


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_environment_takes_the_pythons_of_the_project(version):
    python = Requirement(ENVIRONMENT["dependencies"][0])
    assert python.specifier.contains(version) == (SpecifierSet(PROJECT["requires-python"]).contains(version))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_committed_bare_and_opens_unasked(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"  # else JupyterLab asks for a kernel
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_imports_babysit_first_so_that_tensorflow_keeps_its_log_to_itself(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert re.findall(r"^(?:import|from) (babysit|keras|tensorflow)\b", "\n".join(cells), re.MULTILINE)[0] == "babysit"


def version_of(pin):
    return str(pin.specifier).removeprefix("==")


def same_project(one, other):
    return canonicalize_name(one.name) == canonicalize_name(other.name)


def test_make_lab_serves_this_machine_alone_with_its_token_on():
    shown = subprocess.run(["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for flag in ("--ip=127.0.0.1", "notebooks/01_panda.ipynb", "buffer_offline_messages=False"):
        assert flag in shown
    assert "token" not in shown and "password" not in shown


def test_ci_runs_the_same_targets_as_a_person():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make check" in script and "make test" in script
