"""Work beside the training."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_background(work: Callable[..., Any], *given: Any) -> Future[Any]:
    """Begins some work on a thread of its own, which nothing waits for when the interpreter ends; gives its result."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*given))
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="babysit-data", daemon=True).start()
    except RuntimeError:  # the interpreter is ending and starts no thread; the training goes on until it rests
        run()
    return future
