"""babysit: a steering wheel, a logbook and a time machine for one training run.

```python
panda = babysit.Panda(model).fit(x, y, epochs=20)   # a compiled keras.Model; returns at once
panda                                                # last line of a cell: the dashboard
panda.set(learning_rate=3e-3, why="flat for a while")
```

The map of the package, top to bottom; each layer imports only from those below it.

- face: this module, the public names.
- screen: `ui.dashboard`, the pump that refreshes all the widgets: `ui.head`, where the run stands;
  `ui.transport`, the buttons; `ui.sliders`, a `ui.dial` for each hyperparameter, and
  `ui.couplings`; `ui.logbook`; `ui.places`, the `ui.tree` of branches and checkpoints;
  `ui.vitals`; `ui.controls`, what they are made of; `ui.watch`, what the page tells. `ui.chart`, the
  picture on the page and what is told of it, under a `ui.bar` of choices. `ui.curves` draws what a `ui.view` chooses:
  `ui.frame` its figure, `ui.panel` one pair of axes, `ui.labels` of marks, `ui.ticks`,
  `ui.theme`, and an `ui.image` to send; `ui.words` says the same. What it draws: `ui.course`, a
  run in bounded room, made of `ui.trace`, a column of it, and `ui.marks`, what was done;
  `ui.other`, another run laid over. `ui.picture`, whatever a user wants to see of a model.
  `ui.shared`, the screen of several runs that are steered as one, and `ui.overlay`, their losses
  in one chart.
- run: `replay`, a whole record once more; `together`, several pandas under one set of sliders;
  `panda` the public class; `driver` the training thread and the commands it obeys; `progress`,
  what a terminal shows of it; `viewer`, a run of another process, looked at.
- loop: `timeline`, back to any step and on from where a run was cut off; `trainer` blocks of
  steps, epochs, changes at their boundaries; `fits`, what one is to do and what the record
  knows of those before; `subject`, the model that is trained, with its optimizers, dials and
  compiled blocks; `edits`, what others have changed on it; `keeping`, which states are put on
  the shelf and when; `validation` between epochs; `memory`, what callbacks know of the epochs
  before; `hand`, which changes hyperparameters and tells the journal; `steering`, the values in
  effect, ramps and couplings; `waiting`, changes that act at a later step; `vitals`, the vital
  signs, with a `probe` of the gradient that writes nothing. What leaves a run: `export`, schedules
  and the logbook; `script`, a plain Keras program made of `stretches`.
- parts: `hyperparameters`, what a value is and may be; `dials`, every one of a model's, bound live
  into it (`anatomy` tells where Keras keeps them, `live` is the float that a graph reads
  afresh, `floats` and `rates` put it in and take it out); `data`, whatever `fit` takes as one
  source of batches: `arrays`, `host` for large ones and `streams`, fed by the `feeds`, all
  handing out `pieces` in an order that the `sampler` knows; `steps`, the compiled block;
  `callbacks`, Keras's, driven from our loop; `variables`, what a training changes; `own_fit`,
  for models that bring one; `history` and `journal`, what was measured and what was done;
  `checkpoints` and `architecture`, state and model in plain data; `shelf`, the states that a
  run can return to; `environment`, what exactness depends on; `sanity`, of the first loss; `demos`,
  small models and bundled data.
- beside it: `__main__`, the command line, which looks at a run, as the viewer does, by a `reader`
  of its record.
- ground: `record`, the run's SQLite file; `lock`, the right to write it; `scales`, linear, log
  and log of 1 − β.
"""

from babysit.core.hyperparameter import Hyperparameter
from babysit.core.scale import Scale
from babysit.group import Together
from babysit.panda import Panda, attach
from babysit.session.history import History
from babysit.session.journal import Entry, Journal
from babysit.session.replay import Replay
from babysit.store.files import Checkpoint

__all__ = [
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

]
__version__ = "0.1.0"
