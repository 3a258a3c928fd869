"""What the documents show is run, and what they name exists."""

import re
from pathlib import Path

import pytest

import babysit
from babysit import caviar

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PACKAGE = ROOT / "babysit"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "notebooks/README.md", "docs/architecture.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


@pytest.mark.filterwarnings("ignore:Ray is not installed")
def test_its_python_runs_from_top_to_bottom(monkeypatch):
    monkeypatch.setattr(caviar, "find_spec", lambda name: None)  # Ray has tests of its own
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["panda"].state == "stopped"


@pytest.mark.parametrize(
    ("document", "least"), [("README.md", {"lab", "test", "bench"}), ("CONTRIBUTING.md", {"check", "test", "size"})]
)
def test_its_commands_are_targets_of_the_makefile(document, least):
    commands = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / document).read_text(), flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert least <= commands <= targets


@every_document
def test_its_links_and_pictures_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link


@every_document
def test_the_files_it_names_exist(path):
    for name in re.findall(r"`([\w/]+\.(?:py|js|css))`", path.read_text()):
        found = (ROOT / name).exists() or (PACKAGE / name).exists() or [*PACKAGE.rglob(name)]
        assert found or name == "train.py", name  # that one is an example of what a run's folder holds


def test_the_calls_of_the_four_walks_exist():
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (.+) \| `[\w/]+(?:\.py)?`.* \|$", text, flags=re.MULTILINE)
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    names = {match[1] for span in spans if (match := re.match(r"(?:\w+\.)*(\w+)(?:\(.*\))?$", span))}
    assert len(names) > 40
    assert [name for name in sorted(names) if not re.search(rf"\b(?:def|class) {name}\b", code)] == []


def test_the_index_of_the_decisions_names_each_of_them():
    folder = ROOT / "docs" / "decisions"
    named = re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text())
    assert sorted(named) == sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")


def test_every_public_name_is_documented():
    for name in babysit.__all__:
        assert getattr(babysit, name).__doc__, name
    for name, member in vars(babysit.Panda).items():
        if not name.startswith("_"):
            assert (member.__func__ if isinstance(member, classmethod) else member).__doc__, name
