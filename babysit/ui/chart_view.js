// The chart in the page: shows each frame, and what needs no answer from the kernel: a crosshair with the values
// under it, a box about what was clicked, and the choice of a zoom. It reads the rate off the picture of a range test,
// which a click sets. It reports its size and whether it is visible, keeps what the user types in the dashboard, sets the
// tab's title, gives sliders their spoken names, and says when the kernel no longer answers.
const REACH = 6; // at this distance in pixels a click still hits a change
const SILENCE_S = 20; // a kernel that trains sends something every few seconds
const STALLED_MS = 10_000; // a timer of a second that comes so late was kept back by the browser
const HELP = 'What is shown is old, and the controls do nothing. Run the cell again, or babysit.attach(…) to see the run, '
  + 'or babysit.Panda.load(…) to go on with it.';
const DOUBLE_MS = 250; // two clicks within this time are a double click
const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -40, PageDown: 40 };

const element = (name, className, text = '') =>
  Object.assign(document.createElement(name), { className, textContent: text });

const number = (value) =>
  Number.isFinite(value) ? Number(value.toPrecision(3)).toLocaleString('en', { maximumSignificantDigits: 3 }) : '';

// Typed arrays need a buffer that begins where a number does.
const array = (Kind, view) => new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

// A box that the user is in is not overwritten by the kernel until the user is done.
const protect = (box) => {
  if (!['text', 'number'].includes(box.type) || Object.hasOwn(box, 'value')) return;
  let late; // the value that the kernel wrote meanwhile
  const { get } = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value');
  Object.defineProperty(box, 'value', { configurable: true, get, set: (words) => { late = words; } });
  const done = ({ type }) => {
    if (type === 'change') late = undefined; // the widget may still bring the number within its bounds
    for (const sign of ['change', 'blur']) box.removeEventListener(sign, done);
    setTimeout(() => {
      delete box.value;
      if (late !== undefined) box.value = late;
    });
  };
  for (const sign of ['change', 'blur']) box.addEventListener(sign, done);
};

function render({ model, el }) {
  const end = new AbortController();
  const plot = element('div', 'babysit-plot');
  const [image, line, band] = [element('img', ''), element('div', 'babysit-line'), element('div', 'babysit-zoom')];
  const [values, box] = [element('div', 'babysit-values'), element('div', 'babysit-box')];
  const silence = element('div', 'babysit-silence');
  const [rate, rateWords] = [element('div', 'babysit-line'), element('span', '')];
  rate.append(rateWords);
  silence.setAttribute('role', 'alert');
  values.setAttribute('role', 'status');
  plot.tabIndex = 0;
  plot.dataset.lmSuppressShortcuts = 'true'; // else JupyterLab's arrow keys leave the cell
  plot.setAttribute('role', 'application');
  plot.append(image, band, line);
  el.append(plot, values, box);
  line.hidden = band.hidden = box.hidden = true;
  let frame, steps, table, url;
  let at = null; // index of the step under the crosshair
  let from = null; // where a drag began, in steps
  let asked = 0; // the height at which the box is
  let click; // waits for whether it becomes a double click

  const scale = () => plot.clientWidth / frame.size[0];
  const toPixel = (step) => {
    const [[left, , width], [low, high]] = [frame.box, frame.limits];
    return (left + ((step - low) / (high - low)) * width) * scale();
  };
  const toStep = (clientX) => {
    const [[left, , width], [low, high]] = [frame.box, frame.limits];
    const pixel = (clientX - plot.getBoundingClientRect().left) / scale() - left;
    return low + (Math.min(Math.max(pixel, 0), width) / width) * (high - low);
  };
  const nearest = (step) => {
    let [low, high] = [0, steps.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
  };
  const place = (item, left, width) => Object.assign(item.style, {
    left: `${left}px`, width: `${width}px`, top: `${frame.box[1] * scale()}px`, height: `${frame.box[3] * scale()}px`,
  });

  const showCrosshair = () => {
    line.hidden = at === null;
    values.style.visibility = at === null ? 'hidden' : ''; // those of the last step keep the room free
    values.replaceChildren();
    if (!steps.length) return;
    const shown = at ?? steps.length - 1;
    place(line, toPixel(steps[shown]), 1);
    values.append(element('b', '', `${frame.unit ?? 'step'} ${steps[shown].toLocaleString('en')}`));
    frame.curves.forEach(([name, colour], row) => {
      const value = number(table[row * steps.length + shown]);
      if (!value) return;
      const word = element('span', '', `${name} ${value}`);
      word.style.setProperty('--babysit-curve', colour);
      values.append(word);
    });
    if (!box.hidden) placeBox();
  };
  // Beside the crosshair, on the side with more room.
  const placeBox = () => {
    const [x, width, height] = [toPixel(steps[at ?? 0]), plot.clientWidth, plot.clientHeight];
    const left = x < width / 2 ? Math.min(x + 8, width - box.offsetWidth) : Math.max(x - 8 - box.offsetWidth, 0);
    Object.assign(box.style, { left: `${left}px`, top: `${Math.max(Math.min(asked, height - box.offsetHeight), 0)}px` });
  };
  const moveTo = (index) => {
    at = steps.length && index !== null ? Math.min(Math.max(index, 0), steps.length - 1) : null;
    showCrosshair();
  };
  const moveToMark = (way) => { // the next one on this way, to earlier or to later steps
    const here = at ?? -way * Infinity;
    const ahead = frame.marks.map(({ step }) => nearest(step)).filter((index) => (index - here) * way > 0);
    if (ahead.length) moveTo(way > 0 ? Math.min(...ahead) : Math.max(...ahead));
  };
  const zoomTo = (zoom) => model.send({ zoom });
  const zoomBy = (factor) => {
    const [low, high] = frame.limits;
    const middle = at === null ? (low + high) / 2 : steps[at];
    zoomTo([Math.max(middle - (middle - low) * factor, 0), middle + (high - middle) * factor]);
  };

  const rewindButton = (words, step) => {
    const button = element('button', 'jupyter-button', words);
    button.addEventListener('click', () => {
      model.send({ rewind: step });
      close();
    });
    return button;
  };
  const close = () => {
    if (box.contains(document.activeElement)) plot.focus();
    box.hidden = true;
  };
  // Tells of the changes at a step, or of the step alone, and offers to rewind.
  const ask = (step, marks, height = 0.4 * plot.clientHeight) => {
    asked = height;
    box.replaceChildren(...marks.map(({ words, about }) => {
      const row = element('div', '');
      row.append(element('span', 'babysit-user', words), ` · ${about}`);
      return row;
    }));
    const back = marks.length ? Math.max(step - 1, 0) : step;
    const words = marks.length ? 'Rewind to just before this' : `Rewind to step ${step.toLocaleString('en')}`;
    const cancel = element('button', 'jupyter-button babysit-word', 'Close');
    cancel.addEventListener('click', close);
    const buttons = element('div', 'babysit-row');
    buttons.append(rewindButton(words, back), cancel);
    box.append(buttons);
    box.hidden = false;
    moveTo(nearest(step));
    box.scrollIntoView({ block: 'nearest' });
  };
  const askAt = (step, height) => {
    if (frame.unit) return; // what it shows is no run's steps
    const pixel = toPixel(step);
    const near = frame.marks.filter((mark) => Math.abs(toPixel(mark.step) - pixel) <= REACH);
    near.sort((a, b) => Math.abs(a.step - step) - Math.abs(b.step - step));
    if (near.length) ask(near[0].step, near.filter((mark) => mark.step === near[0].step), height);
    else ask(steps[nearest(step)] ?? 0, [], height);
  };

  const dashboard = () => el.closest('.babysit') ?? el;
  const nameControls = () => {
    const all = dashboard();
    for (const handle of all.querySelectorAll('.noUi-handle')) {
      const slider = handle.closest('.widget-slider');
      let name = slider?.querySelector('.widget-label')?.textContent;
      if (slider?.querySelector('.noUi-handle-upper')) {
        name += `, ${handle.dataset.handle === '0' ? 'lower' : 'upper'} end of ${slider.querySelector('.widget-readout').textContent}`;
      }
      if (name && handle.ariaLabel !== name) handle.ariaLabel = name;
    }
    for (const list of all.querySelectorAll('select, .noUi-handle')) list.dataset.lmSuppressShortcuts = 'true';
  };
  const showTitle = () => { document.title = model.get('title') || document.title; nameControls(); };

  const draw = () => {
    nameControls();
    frame = model.get('frame');
    if (!frame?.png) return;
    const ofRuns = frame.unit ? '' : 'up and down go to a change, Enter offers to rewind there, ';
    plot.ariaLabel = `chart: left and right move the crosshair, ${ofRuns}plus and minus zoom, Home shows all`;
    const step = at === null ? null : steps[at];
    steps = array(Float64Array, frame.steps);
    table = array(Float32Array, frame.table);
    const old = url;
    url = URL.createObjectURL(new Blob([frame.png], { type: 'image/png' }));
    image.src = url;
    plot.style.maxWidth = `${frame.size[0]}px`;
    moveTo(step === null ? null : nearest(step));
    image.decode().catch(() => {}).then(() => {
      if (old) URL.revokeObjectURL(old);
      if (!end.signal.aborted) model.send({ drawn: true });
    });
  };

  const listen = (target, type, act) => target.addEventListener(type, (event) => frame?.png && act(event), { signal: end.signal });
  listen(plot, 'pointermove', ({ clientX }) => {
    const step = toStep(clientX);
    moveTo(nearest(step));
    if (from === null) return;
    const [left, right] = [toPixel(from), toPixel(step)].sort((a, b) => a - b);
    band.hidden = right - left < REACH;
    place(band, left, right - left);
  });
  listen(plot, 'pointerdown', (event) => {
    clearTimeout(click);
    if (event.button) return;
    plot.setPointerCapture(event.pointerId);
    from = toStep(event.clientX);
  });
  listen(plot, 'pointerup', ({ clientX, clientY }) => {
    const [first, last] = [from, toStep(clientX)];
    from = null;
    if (!band.hidden) zoomTo([Math.min(first, last), Math.max(first, last)]);
    else if (first !== null) click = setTimeout(askAt, DOUBLE_MS, last, clientY - plot.getBoundingClientRect().top);
    band.hidden = true;
  });
  listen(plot, 'pointercancel', () => { from = null; band.hidden = true; });
  listen(plot, 'pointerleave', () => { if (from === null && box.hidden) moveTo(null); });
  listen(plot, 'dblclick', () => { clearTimeout(click); close(); zoomTo(null); });
  listen(plot, 'keydown', (event) => {
    const { key, ctrlKey, metaKey } = event;
    if (ctrlKey || metaKey) return;
    if (key in KEYS) moveTo(at === null ? (KEYS[key] > 0 ? 0 : steps.length - 1) : at + KEYS[key]);
    else if (key === 'ArrowUp' || key === 'ArrowDown') moveToMark(key === 'ArrowUp' ? -1 : 1);
    else if (key === '+' || key === '=') zoomBy(0.5);
    else if (key === '-') zoomBy(2);
    else if (key === 'Enter' && at !== null) { askAt(steps[at]); box.querySelector('button')?.focus(); }
    else if (key === 'Home' || key === 'Escape') { close(); zoomTo(null); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  listen(box, 'keydown', (event) => { if (event.key === 'Escape') close(); });
  const isOurs = (target) => dashboard().contains(target);
  for (const sign of ['focusin', 'keydown', 'input']) { // while they are captured: widgets stop keys from bubbling up
    const guard = ({ target }) => isOurs(target) && protect(target);
    document.addEventListener(sign, guard, { capture: true, signal: end.signal });
  }
  listen(document, 'click', ({ target }) => { // a line of the logbook leads to its change
    const row = isOurs(target) && target.closest('tr[data-entry]');
    if (!row) return;
    const mark = frame.marks.find(({ seq }) => seq === Number(row.dataset.entry));
    if (mark) ask(mark.step, [mark]);
  });

  // The picture of a range test that the pointer is over, and the rate there.
  const tested = ({ target, clientX }) => {
    const [picture, axis] = [isOurs(target) && target.closest('.babysit-tried-picture'), model.get('rates')];
    if (!picture || !axis.limits) return null;
    const { left, width } = picture.firstChild.getBoundingClientRect();
    const [[first, last], [low, high]] = [axis.ends, axis.limits];
    const x = Math.floor(clientX) - left; // a click comes in whole pixels: it sets what was shown
    const part = Math.min(Math.max(x / width, first), last);
    const value = low * (high / low) ** ((part - first) / (last - first));
    return { picture, at: part * width, right: part > 0.5, name: axis.label, value: Number(value.toPrecision(3)) };
  };
  listen(document, 'pointermove', (event) => {
    const found = tested(event);
    if (!found) { rate.remove(); return; }
    rateWords.textContent = `set ${found.name} ${found.value < 1e-4 ? found.value.toExponential() : found.value}`;
    rateWords.style.right = found.right ? '4px' : '';
    rate.style.left = `${found.at}px`;
    if (rate.parentNode !== found.picture) found.picture.append(rate);
  });
  listen(document, 'click', (event) => {
    const found = tested(event);
    if (found) model.send({ rate: found.value });
  });

  const room = () => el.closest('.babysit-chart')?.clientWidth ?? el.clientWidth;
  let [inSight, visible] = [true, false];
  let reported = '';
  const report = () => {
    visible = inSight && document.visibilityState === 'visible' && room() > 0;
    const size = room() > 0 ? { width: room(), ratio: devicePixelRatio } : {};
    const now = JSON.stringify({ visible, ...size });
    if (now !== reported) model.send(JSON.parse(now));
    reported = now;
  };
  let heard = performance.now(); // when something came from the kernel, or nothing had to
  let looked = heard;
  const hear = () => { heard = performance.now(); };
  const warn = () => { // of a restarted kernel JupyterLab knows at once
    const stalled = performance.now() - looked > STALLED_MS; // asleep, frozen or too busy to hear anything
    looked = performance.now();
    if (!visible || !model.get('beat') || stalled) hear();
    const silence_s = Math.floor((performance.now() - heard) / 10_000) * 10;
    const restarted = dashboard().matches('.jupyter-widgets-disconnected');
    const words = restarted ? 'The kernel was restarted.' : silence_s >= SILENCE_S && `No answer from the kernel for ${silence_s} s.`;
    dashboard().classList.toggle('babysit-silent', Boolean(words));
    if (!silence.isConnected) (dashboard().querySelector('.babysit-message') ?? el).append(silence);
    const all = words ? `${words} ${HELP}` : '';
    if (silence.textContent !== all) silence.textContent = all; // written anew, it would be read aloud anew
  };
  const watch = setInterval(() => { warn(); nameControls(); }, 1000); // there may be new ones
  const sight = new IntersectionObserver((entries) => {
    inSight = entries.at(-1).isIntersecting;
    report();
  });
  const sizes = new ResizeObserver(() => { // also called once the widget has its place on the page
    sight.observe(dashboard());
    report();
  });
  sizes.observe(el);
  document.addEventListener('visibilitychange', report, { signal: end.signal });
  model.on('change:frame', draw);
  model.on('change:title', showTitle);
  model.on('change', hear);
  showTitle();
  draw();
  return () => {
    end.abort();
    clearInterval(watch);
    silence.remove();
    rate.remove();
    sizes.disconnect();
    sight.disconnect();
    model.off('change:frame', draw);
    model.off('change:title', showTitle);
    model.off('change', hear);
    if (url) URL.revokeObjectURL(url);
    model.send({ visible: false });
  };
}

export default { render };
