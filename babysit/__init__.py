"""babysit: a steering wheel, a logbook and a time machine for one training run.

```python
panda = babysit.Panda(model).fit(x, y, epochs=20)   # a compiled keras.Model; returns at once
panda                                                # last line of a cell: the dashboard
panda.set(learning_rate=3e-3, why="flat for a while")
```

The folders, from the ground up; imports run downward only:

- `core`: what a run is: events, controls, position, state, the log. Plain data and pure functions.
- `store`: how a run lies on disk: one SQLite file and checkpoints.
- `engine`: how a step is taken: the Keras model, its compiled blocks, its data.
- `session`: how a run is driven: the loop, going back, the thread and its commands.
- `recipes`: what a run's public methods suffice for: trying several values, finding a learning rate.
- `export`: what leaves a run: a plain Keras program, schedules, the logbook.
- `ui`: what a person sees: the dashboard.

`docs/architecture.md` says how they work together.

Imported before TensorFlow, it keeps the lines that TensorFlow logs of its start off the page; of what comes later,
warnings and errors are shown. Where `TF_CPP_MIN_LOG_LEVEL` is set, that decides.
"""

import babysit.startup  # noqa: F401 (imported for what it does, before all that imports TensorFlow)
from babysit.caviar import Caviar
from babysit.core.history import History
from babysit.core.hyperparameter import Hyperparameter
from babysit.core.journal import Entry, Journal
from babysit.core.scale import Scale
from babysit.group import Together
from babysit.panda import Panda
from babysit.places import remote
from babysit.replay import replay
from babysit.runs import attach
from babysit.session.replay import Replay
from babysit.store.checkpoint_store import Checkpoint

__all__ = [
    "Caviar",
    "Checkpoint",
    "Entry",
    "History",
    "Hyperparameter",
    "Journal",
    "Panda",
    "Replay",
    "Scale",
    "Together",
    "attach",
    "remote",
    "replay",
]
__version__ = "0.1.0"
