"""babysit: a steering wheel, a logbook and a time machine for one training run.

```python
panda = babysit.Panda(model).fit(x, y, epochs=20)   # a compiled keras.Model; returns at once
panda                                                # last line of a cell: the dashboard
panda.set(learning_rate=3e-3, why="flat for a while")
```

The map of the package, top to bottom; each layer imports only from those below it.

- face: this module, the public names.
- screen: `ui.dashboard`, the widgets and the pump that refreshes them; `ui.dial`, one slider;
  `ui.curves` and `ui.trace`, the chart and what it draws.
- run: `panda` the public class; `driver` the training thread and the commands it obeys;
  `progress`, what a terminal shows of it.
- loop: `trainer` blocks of steps, epochs, changes at their boundaries, rewinding; `validation`
  between epochs; `steering`, the values in effect, ramps and couplings.
- parts: `hyperparameters`, what a value is and may be; `dials`, every one of a model's, bound live
  into it (`anatomy` tells where Keras keeps them, `live` is the float that a graph reads
  afresh, `floats` and `rates` put it in and take it out); `data`, whatever `fit` takes as one
  source of batches: `arrays`, `host` for large ones and `streams`, fed by the `feeds`, all
  handing out `pieces` in an order that the `sampler` knows; `steps`, the compiled block;
  `callbacks`, Keras's, driven from our loop; `variables`, what a training changes; `own_fit`,
  for models that bring one; `history` and `journal`, what was measured and what was done;
  `checkpoints` and `architecture`, state and model in plain data; `demos`, small models and
  bundled data.
- ground: `record`, the run's SQLite file; `scales`, linear, log and log of 1 − β.
"""

from babysit.checkpoints import Checkpoint
from babysit.history import History
from babysit.hyperparameters import Hyperparameter
from babysit.journal import Entry, Journal
from babysit.panda import Panda, attach
from babysit.scales import Scale

__all__ = ["Checkpoint", "Entry", "History", "Hyperparameter", "Journal", "Panda", "Scale", "attach"]
__version__ = "0.1.0"
