"""What the README shows is run."""

import re
from pathlib import Path

import babysit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_python_runs_from_top_to_bottom():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["panda"].state == "stopped"


def test_its_commands_are_targets_of_the_makefile():
    commands = set(re.findall(r"\bmake ([a-z]+)", README))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"lab", "test", "bench"} <= commands <= targets


def test_its_links_and_pictures_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_public_name_is_documented():
    for name in babysit.__all__:
        assert getattr(babysit, name).__doc__, name
    for name, member in vars(babysit.Panda).items():
        if not name.startswith("_"):
            assert (member.__func__ if isinstance(member, classmethod) else member).__doc__, name
