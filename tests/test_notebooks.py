"""Every notebook runs from top to bottom, without a person and within a minute."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_headless_within_a_minute(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    # Of a processor's time, which does not depend on what else the machine does.
    spent = nbformat.v4.new_code_cell("import time\nprint(time.process_time())")
    notebook.cells.append(spent)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert float(spent.outputs[0].text) < 60


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_has_at_most_a_dozen_cells_and_stands_in_the_index(path):
    assert len(nbformat.read(path, as_version=4).cells) <= 12
    assert f"({path.name})" in (path.parent / "README.md").read_text()


def test_run_again_its_main_cell_starts_no_second_training_and_says_what_to_do(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    main = next(cell for cell in notebook.cells if "panda.fit(" in cell.source and cell.cell_type == "code")
    again = nbformat.v4.new_code_cell(
        f"first = panda\ntry:\n    {main.source.replace(chr(10), chr(10) + '    ')}\n"
        "except ValueError as error:\n    print(error)\n"
        "assert panda is first is babysit.attach() and panda.state == 'running'"
    )
    notebook.cells = notebook.cells[: notebook.cells.index(main) + 1] + [again]
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert "babysit.attach()" in again.outputs[0].text
