import re
from pathlib import Path

from playwright.sync_api import Locator, Page

SCREENSHOTS = Path(__file__).parent / "screenshots"

# The notebook in front and its kernel, as JupyterLab's own scripts know them.
PANEL = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{PANEL}.sessionContext.session.kernel"


class Lab:
    """One page of JupyterLab with one notebook in it, steered as a person and a kernel would."""

    def __init__(self, page: Page, url: str, root: Path) -> None:
        self.page = page
        self.page.set_default_timeout(60_000)  # as `until` waits: two workers share the machine
        self.url = url
        self.root = root  # the folder that the server serves

    def open(self, notebook: str) -> None:
        """Open a notebook of the server's folder, nothing else, and wait until its kernel idles."""
        workspace = re.sub(r"\W", "-", notebook)
        self.page.goto(f"{self.url}/lab/workspaces/{workspace}/tree/{notebook}?reset")
        self._wait_for_kernel(notebook)

    def reload(self) -> None:
        """Load the page anew, as F5 does; what was not saved is lost."""
        notebook = self.page.evaluate(f"{PANEL}.context.path")
        self.page.reload()
        self._wait_for_kernel(notebook)

    def save(self) -> None:
        """Save the notebook, outputs included."""
        self.page.evaluate(f"{PANEL}.context.save()")

    def close(self) -> None:
        """End all kernels."""
        self.page.evaluate("window.jupyterapp?.serviceManager.sessions.shutdownAll()")

    def run_all(self) -> None:
        """Run every cell and return when the last has ended; a cell's error is raised here."""
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self._raise_errors()

    def run_cell(self, index: int) -> None:
        """Run one cell, counted from 0, and return when it has ended; its error is raised here."""
        self.page.evaluate(
            f"""async (index) => {{
                {PANEL}.content.activeCellIndex = index;
                {PANEL}.content.deselectAll();
                await window.jupyterapp.commands.execute('notebook:run-cell');
            }}""",
            index,
        )
        self._raise_errors(index)

    def run_code(self, code: str) -> None:
        """Add a cell at the end and run it."""
        cells = f"{PANEL}.context.model.sharedModel"
        self.page.evaluate(f"(source) => {{ {cells}.addCell({{ cell_type: 'code', source }}); }}", code)
        self.run_cell(self.page.evaluate(f"{cells}.cells.length") - 1)

    def evaluate(self, code: str) -> str:
        """Run code in the notebook's kernel, without a cell; return what it printed and its value.

        It waits its turn on the kernel's main thread, as a cell would.
        """
        text, error = self.page.evaluate(
            f"""async (code) => {{
                let text = '';
                let error = null;
                const future = {KERNEL}.requestExecute({{ code, store_history: false }});
                future.onIOPub = ({{ header, content }}) => {{
                    if (content.name === 'stdout') text += content.text;
                    if (header.msg_type === 'execute_result') text += content.data['text/plain'];
                    if (header.msg_type === 'error') error = content.traceback.join('\\n');
                }};
                await future.done;
                return [text, error];
            }}""",
            code,
        )
        if error:
            raise AssertionError(plain(error))
        return text.strip()

    def slider(self, label: str) -> Locator:
        """The handle of the first slider with exactly this label; focus it, then press arrow keys."""
        name = self.page.locator(".widget-label", has_text=exactly(label))
        return self.page.locator(".widget-inline-hbox").filter(has=name).locator(".noUi-handle").first

    def button(self, text: str) -> Locator:
        """The first widget button with exactly this text."""
        return self.page.locator(".jupyter-button", has_text=exactly(text)).first

    def screenshot(self, name: str) -> Path:
        """Take a picture of the page into `screenshots/`, which git ignores."""
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def _wait_for_kernel(self, notebook: str) -> None:
        self.page.wait_for_function(
            f"""(notebook) => {{
                const panel = window.jupyterapp && {PANEL};
                return panel?.context?.path === notebook
                    && panel.context.isReady
                    && panel.sessionContext.isReady
                    && {KERNEL}?.status === 'idle';
            }}""",
            arg=notebook,
            timeout=60_000,
        )

    def _raise_errors(self, index: int | None = None) -> None:
        errors = self.page.evaluate(
            f"""(index) => [...{PANEL}.context.model.cells]
                .filter((cell, i) => cell.type === 'code' && (index === null || i === index))
                .flatMap((cell) => cell.outputs.toJSON())
                .filter((output) => output.output_type === 'error')
                .map((output) => output.traceback.join('\\n'))""",
            index,
        )
        if errors:
            raise AssertionError(plain("\n\n".join(errors)))


def exactly(text: str) -> re.Pattern[str]:
    """A pattern for an element's whole text."""
    return re.compile(rf"^\s*{re.escape(text)}\s*$")


def plain(traceback: str) -> str:
    """A traceback without IPython's colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", traceback)
