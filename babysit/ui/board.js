// The board in the page: a table of runs that sorts and selects without asking the kernel, buttons for the runs that
// are chosen, the picture of their curves, and parallel coordinates, where runs are chosen by what led to which result.
const OVER = ['finished', 'stopped', 'pruned', 'failed'];
const BEGUN = ['running', 'paused', ...OVER];
const ACTIONS = { // what may be done to a run in which states
  Pause: ['running'], Resume: ['paused'], Stop: ['waiting', 'running', 'paused'], Clone: BEGUN, Delete: OVER, Open: BEGUN,
};
const TO_AXIS = { linear: (value) => value, log: Math.log10, 'log of 1−β': (value) => -Math.log10(1 - value) };
const FROM_AXIS = { linear: (axis) => axis, log: (axis) => 10 ** axis, 'log of 1−β': (axis) => 1 - 10 ** -axis };
const [HIGH, TOP, BOTTOM, LEFT, RIGHT] = [300, 44, 14, 56, 40]; // of the parallel coordinates, in pixels
const REACH = 4; // a shorter drag, in pixels, is a click
const BY_KEY = 0.05; // so much of an axis a key adds or takes away

const element = (name, className = '', text = '') =>
  Object.assign(document.createElement(name), { className, textContent: text });
const drawn = (name, attributes, text = '') => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
};
const label = (name) => name.replace(/[_.]/g, ' ');
const clip = (place) => Math.min(Math.max(place, 0), 1);
const words = (value) => { // as a person writes it
  if (typeof value !== 'number') return String(value ?? '');
  if (Number.isInteger(value)) return value.toLocaleString('en');
  const short = Number(value.toPrecision(value >= 0.9 && value < 1 ? 5 : 4));
  return Math.abs(short) < 1e-3 ? short.toExponential() : String(short);
};
const result = (value) => { // as long in each row
  if (typeof value !== 'number') return words(value);
  return value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(2) : value.toPrecision(4);
};
const clock = (seconds) => `${Math.floor(seconds / 3600)}:${new Date(1000 * seconds).toISOString().slice(14, 19)}`;
const typed = (text) => (Number.isNaN(Number(text)) ? { true: true, false: false }[text.toLowerCase()] ?? text : Number(text));

function render({ model, el }) {
  const end = new AbortController();
  const listen = (target, type, act) => target.addEventListener(type, act, { signal: end.signal });
  const button = (parent, text, act) => {
    const made = Object.assign(element('button', 'jupyter-button', text), { type: 'button' });
    listen(made, 'click', act);
    return parent.appendChild(made);
  };
  const status = { title: '', by: '', highest: false, state: '', done: 0, trials: 0, space: {}, remarks: [], best: null };
  const rows = new Map(); // name -> { data, line, box }, in the order in which they were made
  const send = (action, runs = [], about = {}) => model.send({ action, runs, ...about });
  let [chosen, columns, sorted, colours] = [new Set(), [], { key: '', way: 1 }, {}];

  // ------------------------------------------------------------------ the head
  const head = el.appendChild(element('div', 'babysit-tools'));
  const remarks = el.appendChild(element('div', 'babysit-remarks'));
  remarks.setAttribute('role', 'status');
  const [title, pill, share, figures] = ['b', 'span', 'progress', 'span'].map((name) => head.appendChild(element(name)));
  share.setAttribute('aria-label', 'runs that are done');
  const stopHalf = button(head, 'Stop the worst half', () => send('stop worst half'));
  const stopAll = button(head, 'Stop all', () => send('stop all'));
  const showHead = () => {
    title.textContent = status.title;
    Object.assign(pill, { textContent: status.state, className: `babysit-pill babysit-${status.state}` });
    Object.assign(share, { max: Math.max(status.trials, 1), value: status.done });
    const left = status.state === 'running' && Number.isFinite(status.seconds_left) ? ` · ${clock(status.seconds_left)} left` : '';
    figures.textContent = `${words(status.done)} of ${words(status.trials)} runs done${left}`;
  };
  const showRemarks = () => { // only where there are others: written anew, they would be closed, and read aloud anew
    const [last = '', ...older] = [...status.remarks].reverse();
    const folded = element('details');
    folded.append(element('summary', '', last), ...older.map((one) => element('div', '', one)));
    remarks.replaceChildren(older.length ? folded : last);
  };

  // ------------------------------------------------------------------ what is chosen, and what is done to it
  const tools = el.appendChild(element('div', 'babysit-tools'));
  const count = tools.appendChild(element('span', 'babysit-quiet'));
  const buttons = Object.fromEntries(Object.keys(ACTIONS).map((name) => [name, button(tools, name, () => act(name))]));
  let toDelete = ''; // the runs of which the question is asked
  const meant = (name) => [...chosen].filter((run) => ACTIONS[name].includes(rows.get(run)?.data.state));
  const act = (name) => {
    const runs = meant(name);
    const asks = name === 'Delete' && toDelete !== String(runs);
    toDelete = asks ? String(runs) : '';
    if (name === 'Clone') showForm(form.hidden);
    else if (name === 'Open') model.send({ open: runs });
    else if (!asks) send(name.toLowerCase(), runs);
    showTools();
  };
  const form = el.appendChild(element('form', 'babysit-tools'));
  const of = form.appendChild(element('span'));
  const field = (name, placeholder, size) => {
    const outer = form.appendChild(element('label', '', name));
    return outer.appendChild(Object.assign(element('input'), { type: 'text', placeholder, size }));
  };
  const [at, change] = [field('at step', 'where it is', 10), field('with', 'learning_rate=0.003', 22)];
  form.append(Object.assign(element('button', 'jupyter-button mod-primary', 'Make it'), { type: 'submit' }));
  button(form, 'Cancel', () => showForm(false));
  const refusal = form.appendChild(element('span', 'babysit-refusal'));
  refusal.setAttribute('role', 'alert');
  const showForm = (shown) => {
    form.hidden = !shown;
    refusal.textContent = at.value = change.value = '';
    (shown ? at : buttons.Clone).focus();
  };
  const readForm = () => { // what was typed, or in words what is wrong with it
    const [step, changes] = [at.value.replace(/[,\s]/g, ''), {}];
    if (!/^\d*$/.test(step)) return `A step is a whole number, such as 1200. Received: ${at.value}`;
    const known = new Set([...rows.values()].flatMap(({ data }) => Object.keys(data.hyperparameters)));
    for (const part of change.value.split(/[,;]/).filter((one) => one.trim())) {
      const [name, value] = part.split('=').map((one) => one.trim());
      if (!name || !value) return `A change is written as learning_rate=0.003. Received: ${part.trim()}`;
      changes[[...known].find((one) => label(one) === label(name)) ?? name] = typed(value);
    }
    return { at: step ? Number(step) : null, changes };
  };
  form.hidden = true;
  listen(form, 'keydown', (event) => {
    if (event.key === 'Escape') showForm(false);
    if (event.key !== 'Enter' || !event.target.matches('input')) return;
    event.preventDefault(); // JupyterLab keeps the browser from sending a form
    form.requestSubmit();
  });
  listen(form, 'submit', (event) => {
    event.preventDefault();
    const about = readForm();
    if (typeof about === 'string') { refusal.textContent = about; return; }
    send('clone', meant('Clone'), about);
    showForm(false);
  });
  const showTools = () => {
    const over = status.state === 'gone';
    for (const [name, made] of Object.entries(buttons)) {
      const runs = meant(name);
      made.disabled = over || !runs.length;
      made.title = runs.join(', ');
    }
    if (toDelete !== String(meant('Delete'))) toDelete = '';
    const those = meant('Delete').length > 1 ? `${meant('Delete').length} runs` : toDelete;
    buttons.Delete.textContent = toDelete ? `Delete ${those} for good` : 'Delete';
    count.textContent = `${chosen.size} of ${rows.size} chosen`;
    of.textContent = `Clone ${meant('Clone').length > 3 ? `${meant('Clone').length} runs` : meant('Clone').join(', ')}`;
    if (!meant('Clone').length) form.hidden = true;
    const going = [...rows.values()].filter(({ data }) => ['running', 'paused'].includes(data.state));
    stopHalf.disabled = over || going.filter(({ data }) => data.latest !== null).length < 2;
    stopAll.disabled = over || status.state !== 'running';
    all.checked = chosen.size > 0 && chosen.size === rows.size;
    all.indeterminate = chosen.size > 0 && !all.checked;
  };
  const choose = (names, told = true, brushed = false) => {
    if (!brushed) brushes.clear(); // they no longer say what is chosen
    chosen = new Set([...names].filter((name) => rows.has(name)));
    for (const [name, { line, box }] of rows) {
      box.checked = chosen.has(name);
      line.classList.toggle('babysit-on', box.checked);
    }
    showTools();
    paint();
    if (!told) return;
    model.set('chosen', [...chosen]);
    model.save_changes();
  };
  const toggle = (name) => choose(chosen.has(name) ? [...chosen].filter((one) => one !== name) : [...chosen, name]);

  // ------------------------------------------------------------------ the table
  const frame = el.appendChild(element('div', 'babysit-runs'));
  const table = frame.appendChild(element('table'));
  const [top, body] = [table.createTHead(), table.createTBody()];
  const all = Object.assign(element('input'), { type: 'checkbox', ariaLabel: 'choose all runs' });
  listen(all, 'change', () => choose(all.checked ? rows.keys() : []));
  const showName = ({ name, of: origin }) => {
    const parts = [element('i'), element('span', '', name)];
    parts[0].style.background = colours[name] ?? 'none';
    if (name === status.best) parts.push(element('em', '', ' best'));
    if (origin) parts.push(element('small', '', `clone of ${origin}`));
    return parts;
  };
  const showState = ({ state, error }) => {
    const shown = element('span', `babysit-pill babysit-${state}`, state);
    if (!error) return [shown];
    const more = element('details');
    more.append(element('summary', '', error.trim().split('\n').at(-1)), element('pre', '', error.trim()));
    return [shown, more];
  };
  const column = (key, text, value, show = words) => ({ key, title: text, value, show: (data) => [show(value(data))] });
  const makeColumns = () => {
    const names = [...Object.keys(status.space), ...[...rows.values()].flatMap(({ data }) => Object.keys(data.hyperparameters))];
    const [before, by] = [String(columns.map(({ key }) => key)), label(status.by)];
    columns = [
      { ...column('name', 'run', ({ name }) => name), show: showName },
      { ...column('state', 'state', ({ state }) => state), show: showState },
      column('step', 'step', ({ step }) => step),
      ...[...new Set(names)].map((name) => column(`of ${name}`, label(name), ({ hyperparameters }) => hyperparameters[name])),
      column(`latest ${by}`, by, ({ latest }) => latest, result),
      column(`best ${by}`, `best ${by}`, ({ best }) => best, result),
      column('speed', 'examples/s', ({ examples_a_second: speed }) => speed && Number(speed.toPrecision(2))),
    ];
    if (String(columns.map(({ key }) => key)) === before) return false;
    top.replaceChildren(element('tr'));
    top.rows[0].appendChild(element('th')).append(all);
    for (const { key, title: text } of columns) {
      button(top.rows[0].appendChild(element('th')), text, () => {
        sorted = { key, way: sorted.key === key ? -sorted.way : 1 };
        sort(true);
      });
    }
    return true;
  };
  const fill = ({ data, line }) => {
    while (line.cells.length > columns.length + 1) line.deleteCell(-1);
    columns.forEach(({ show }, i) => {
      const [cell, parts] = [line.cells[i + 1] ?? line.insertCell(), show(data)];
      const shown = parts.map((part) => part.outerHTML ?? part).join();
      if (cell.shown !== shown) cell.replaceChildren(...parts); // an error that is open stays open
      cell.shown = shown;
    });
  };
  const sort = (asked = false) => {
    columns.forEach(({ key }, i) => {
      top.rows[0].cells[i + 1].ariaSort = key !== sorted.key ? 'none' : sorted.way > 0 ? 'ascending' : 'descending';
    });
    if (!asked && (body.matches(':hover') || body.querySelector(':focus-visible'))) return; // nothing moves away there
    const wanted = [...rows.values()];
    const { value } = columns.find(({ key }) => key === sorted.key) ?? {};
    const isMissing = (one) => one === null || one === undefined || one === 'nan';
    if (value) wanted.sort(({ data: a }, { data: b }) => {
      const [x, y] = [value(a), value(b)];
      if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y); // last, whichever way
      return sorted.way * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(y, 'en', { numeric: true }));
    });
    if (wanted.some(({ line }, i) => body.rows[i] !== line)) body.append(...wanted.map(({ line }) => line));
  };
  const add = (data) => {
    const [line, box] = [body.insertRow(), Object.assign(element('input'), { type: 'checkbox', ariaLabel: `choose ${data.name}`, tabIndex: -1 })];
    line.insertCell().append(box);
    listen(box, 'change', () => toggle(data.name));
    listen(line, 'click', ({ target }) => target.closest('input, details') || toggle(data.name));
    rows.set(data.name, { data, line, box });
  };
  const focusOn = (line) => { // the boxes are one stop of the Tab key; up and down lead from one to the next
    for (const { box } of rows.values()) box.tabIndex = -1;
    line.querySelector('input').tabIndex = 0;
  };
  listen(body, 'keydown', (event) => {
    const way = { ArrowUp: 'previousElementSibling', ArrowDown: 'nextElementSibling' }[event.key];
    const next = way && event.target.matches('input') && event.target.closest('tr')[way];
    if (!next) return;
    event.preventDefault();
    focusOn(next);
    next.querySelector('input').focus();
  });

  // ------------------------------------------------------------------ the curves, and the parallel coordinates
  const pictures = el.appendChild(element('div', 'babysit-pictures'));
  const [left, right] = [pictures.appendChild(element('div')), pictures.appendChild(element('div'))];
  const curves = left.appendChild(element('img'));
  const plot = right.appendChild(drawn('svg', { role: 'group', 'aria-label': 'hyperparameters of the runs, and what came of them' }));
  right.append(element('div', 'babysit-quiet', 'Drag along an axis to choose runs; double-click to choose none.'));
  const brushes = new Map(); // axis -> the places between which runs are chosen
  let [axes, drag, shape] = [[], null, '']; // an axis's places go from 0, at the bottom, to 1
  const high = HIGH - TOP - BOTTOM;
  const y = (place) => TOP + (1 - place) * high;
  const scaled = (name, text, value, { low, high: highest, kind = 'linear', whole = false, choices }) => {
    if (choices) {
      const place = (i) => (i < 0 ? null : choices.length > 1 ? i / (choices.length - 1) : 0.5);
      const at = (data) => place(choices.map(String).indexOf(String(value(data))));
      const near = (where) => words(choices[Math.round(where * (choices.length - 1))]);
      return { name, text, at, words: near, ticks: choices.map((choice, i) => [place(i), words(choice)]) };
    }
    const [from, to] = [TO_AXIS[kind](low), TO_AXIS[kind](highest)];
    const place = (axis) => clip((axis - from) / (to - from || 1));
    const at = (data) => (typeof value(data) === 'number' ? place(TO_AXIS[kind](value(data))) : null);
    const near = (where) => {
      const one = FROM_AXIS[kind](from + where * (to - from));
      return words(whole ? Math.round(one) : Number(one.toPrecision(kind === 'log of 1−β' ? 6 : 3)));
    };
    const decades = kind === 'linear' ? [] : Array.from({ length: Math.floor(to) - Math.ceil(from) + 1 }, (_, i) => Math.ceil(from) + i);
    const places = decades.length > 1 ? decades.map(place) : [0, 0.25, 0.5, 0.75, 1];
    return { name, text, at, words: near, ticks: places.map((one) => [one, near(one)]) };
  };
  const layOut = () => {
    if (drag) return;
    const known = [...rows.values()].map(({ data }) => data.best).filter(Number.isFinite);
    const [low, highest] = [Math.min(...known), Math.max(...known)];
    const kind = !status.highest && low > 0 && highest > 4 * low ? 'log' : 'linear';
    const last = scaled('', `best ${label(status.by)}`, ({ best }) => best, { low, high: highest, kind });
    const wanted = Object.entries(status.space).map(([name, scale]) => scaled(name, label(name), ({ hyperparameters }) => hyperparameters[name], scale));
    if (known.length) wanted.push(last);
    const lines = [...rows.values()].map(({ data }) => [data.name, data.best, wanted.map((axis) => axis.at(data))]);
    const now = JSON.stringify([lines, wanted, right.clientWidth, status.highest]);
    if (now === shape || !right.clientWidth) return;
    axes = wanted;
    shape = now;
    const focused = plot.contains(document.activeElement) ? document.activeElement.dataset.axis : null;
    const gap = (right.clientWidth - LEFT - RIGHT) / Math.max(axes.length - 1, 1);
    plot.setAttribute('viewBox', `0 0 ${right.clientWidth} ${HIGH}`);
    plot.replaceChildren(...lines.map(([name, best, places]) => {
      let pen = 'M';
      const points = places.map((place, i) => {
        if (place === null) { pen = 'M'; return ''; }
        const point = `${pen}${LEFT + i * gap} ${y(place)}`;
        pen = 'L';
        return point;
      });
      const good = places.at(-1) === null || !known.length ? null : 100 * (status.highest ? places.at(-1) : 1 - places.at(-1));
      const path = drawn('path', { d: points.join(''), 'data-run': name, style: good === null ? '' : `--babysit-good: ${good}%` });
      path.append(drawn('title', {}, `${name} · ${last.text} ${result(best)}`));
      return path;
    }));
    axes.forEach((axis, i) => {
      const x = LEFT + i * gap;
      plot.append(drawn('text', { x, y: gap < 110 && i % 2 ? 13 : 30, class: 'babysit-axis-title' }, axis.text), drawn('line', { x1: x, x2: x, y1: TOP, y2: TOP + high }));
      for (const [place, text] of axis.ticks) plot.append(drawn('text', { x: x - 6, y: y(place) + 4 }, text));
      axis.brush = plot.appendChild(drawn('rect', { x: x - 7, width: 14, rx: 3 }));
      axis.grip = plot.appendChild(drawn('rect', { x: x - 16, y: TOP - 8, width: 32, height: high + 16, tabindex: 0, role: 'slider',
        'data-axis': axis.name, 'aria-orientation': 'vertical', 'aria-valuemin': 0, 'aria-valuemax': 1,
        'aria-label': `${axis.text}: up and down move the lower end of what is chosen, with shift the upper one` }));
      if (axis.name === focused) axis.grip.focus();
    });
    paint();
  };
  const paint = () => {
    plot.classList.toggle('babysit-some', chosen.size > 0);
    for (const path of plot.querySelectorAll('path')) {
      const on = path.classList.toggle('babysit-on', chosen.has(path.dataset.run));
      path.style.stroke = (on && colours[path.dataset.run]) || ''; // as its curve has
    }
    for (const { name, brush, grip, words: near } of axes.filter((axis) => axis.brush)) {
      const [from, to] = brushes.get(name) ?? [0, 0];
      brush.setAttribute('y', y(to));
      brush.setAttribute('height', (to - from) * high);
      grip.setAttribute('aria-valuenow', from);
      grip.setAttribute('aria-valuetext', brushes.has(name) ? `${near(from)} to ${near(to)}, ${chosen.size} runs chosen` : 'all');
    }
  };
  const brush = (name, from, to, told = true) => {
    if (from === undefined || (from === 0 && to === 1)) brushes.delete(name);
    else brushes.set(name, [Math.min(from, to), Math.max(from, to)]);
    const isWithin = (axis, data) => {
      const [place, [low, top_]] = [axis.at(data), brushes.get(axis.name) ?? [-1, 2]];
      return !brushes.has(axis.name) || (place !== null && place >= low - 1e-6 && place <= top_ + 1e-6);
    };
    const within = [...rows.values()].filter(({ data }) => axes.every((axis) => isWithin(axis, data)));
    choose(brushes.size ? within.map(({ data }) => data.name) : [], told, true);
  };
  const placeOf = ({ clientY }) => clip(1 - (clientY - plot.getBoundingClientRect().top - TOP) / high);
  listen(plot, 'pointerdown', (event) => {
    if (event.button || event.target.dataset.axis === undefined) return;
    plot.setPointerCapture(event.pointerId);
    drag = { name: event.target.dataset.axis, from: placeOf(event), begun: false };
  });
  listen(plot, 'pointermove', (event) => {
    if (!drag) return;
    drag.begun ||= Math.abs(placeOf(event) - drag.from) * high > REACH;
    if (drag.begun) brush(drag.name, drag.from, placeOf(event), false);
  });
  listen(plot, 'pointerup', (event) => {
    const { name, from, begun } = drag ?? {};
    drag = null;
    if (begun) brush(name, from, placeOf(event));
    else if (brushes.has(name)) brush(name);
    layOut();
  });
  listen(plot, 'pointercancel', () => { drag = null; });
  listen(plot, 'dblclick', () => choose([]));
  listen(plot, 'click', ({ target }) => target.dataset.run && toggle(target.dataset.run));
  listen(plot, 'keydown', (event) => {
    const [name, way] = [event.target.dataset.axis, { ArrowUp: BY_KEY, ArrowDown: -BY_KEY }[event.key]];
    if (event.key === 'Escape') choose([]);
    if (!way) return;
    event.preventDefault();
    const [from, to] = brushes.get(name) ?? [0, 1];
    if (event.shiftKey) brush(name, from, Math.max(clip(to + way), from));
    else brush(name, Math.min(clip(from + way), to), to);
  });

  // ------------------------------------------------------------------ what the kernel sends, and what it is told
  const receive = (message, buffers) => {
    const old = status.best;
    Object.assign(status, message.status);
    colours = message.colours ?? colours;
    for (const data of message.rows ?? []) {
      if (rows.has(data.name)) rows.get(data.name).data = data;
      else add(data);
    }
    for (const [name, { line }] of message.order ? rows : []) {
      if (message.order.includes(name)) continue;
      line.remove();
      rows.delete(name);
    }
    const anew = makeColumns() || message.colours || old !== status.best;
    for (const row of anew ? rows.values() : (message.rows ?? []).map(({ name }) => rows.get(name))) fill(row);
    if (message.order && rows.size && !body.querySelector('input[tabindex="0"]')) focusOn(body.rows[0]);
    sort();
    showHead();
    if (message.status?.remarks) showRemarks();
    const kept = model.get('chosen').filter((name) => rows.has(name));
    if (message.order) choose(kept, kept.length < model.get('chosen').length, kept.length === chosen.size);
    else showTools();
    layOut();
    if (message.colours) paint();
    model.send({ seen: true });
    if (!buffers?.length) return;
    const url = URL.createObjectURL(new Blob([buffers[0]], { type: 'image/png' }));
    Object.assign(curves, { src: url, onload: () => URL.revokeObjectURL(url) });
    curves.alt = `${label(status.by)} of ${rows.size} runs by epoch${status.best === null ? '' : `; the best is that of ${status.best}`}`;
  };
  const follow = () => { if (String(model.get('chosen')) !== String([...chosen])) choose(model.get('chosen'), false); };
  let [inSight, reported] = [false, ''];
  const report = () => {
    const visible = inSight && document.visibilityState === 'visible' && left.clientWidth > 0;
    const now = JSON.stringify({ visible, width: left.clientWidth, ratio: devicePixelRatio });
    if (now !== reported) model.send({ ...JSON.parse(now), anew: visible && !JSON.parse(reported || '{}').visible });
    reported = now;
  };
  const sight = new IntersectionObserver((entries) => { inSight = entries.at(-1).isIntersecting; report(); });
  const sizes = new ResizeObserver(() => { report(); layOut(); });
  sight.observe(el);
  sizes.observe(left);
  sizes.observe(right);
  listen(document, 'visibilitychange', report);
  listen(el, 'focusin', ({ target }) => { target.dataset.lmSuppressShortcuts = 'true'; }); // else JupyterLab's arrow keys leave the cell
  model.on('msg:custom', receive);
  model.on('change:chosen', follow);
  makeColumns();
  showHead();
  showTools();
  return () => {
    end.abort();
    sight.disconnect();
    sizes.disconnect();
    model.off('msg:custom', receive);
    model.off('change:chosen', follow);
    model.send({ visible: false });
  };
}

export default { render };
