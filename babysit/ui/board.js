// The table of a search's runs in the page, which sorts and chooses without asking the kernel.
const element = (name, about = {}) => Object.assign(document.createElement(name), about);
const compare = (a, b) => (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en'));

function render({ model, el }) {
  const table = el.appendChild(element('div', { className: 'babysit-runs' })).appendChild(element('table'));
  const [head, body] = [table.createTHead().insertRow(), table.createTBody()];
  const all = element('input', { type: 'checkbox', ariaLabel: 'choose all runs' });
  const lines = new Map(); // run -> its line, in the order in which they were made
  let [titles, sorted, way] = [[], -1, 1]; // of the columns, the number of one, and 1 or -1

  const choose = (names) => {
    model.set('chosen', names);
    model.save_changes();
  };
  const toggle = (name) => {
    const chosen = model.get('chosen');
    choose(chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]);
  };
  const showChosen = () => {
    const chosen = new Set(model.get('chosen'));
    for (const [name, line] of lines) {
      line.classList.toggle('babysit-on', chosen.has(name));
      line.box.checked = chosen.has(name);
    }
    all.checked = chosen.size > 0 && chosen.size === lines.size;
    all.indeterminate = chosen.size > 0 && !all.checked;
  };
  const sort = (asked = false) => {
    [...head.cells].forEach((cell, i) => { cell.ariaSort = i !== sorted + 1 || !i ? 'none' : way > 0 ? 'ascending' : 'descending'; });
    if (!asked && (body.matches(':hover') || body.querySelector(':focus-visible'))) return; // nothing moves away there
    const wanted = [...lines.values()];
    const key = ({ keys }) => keys[sorted] ?? null;
    const lacking = (line) => key(line) === null; // last, whichever way
    if (sorted >= 0) wanted.sort((a, b) => (lacking(a) || lacking(b) ? lacking(a) - lacking(b) : way * compare(key(a), key(b))));
    if (wanted.some((line, i) => body.rows[i] !== line)) body.append(...wanted);
  };
  const showHead = () => {
    sorted = model.get('columns').indexOf(titles[sorted]);
    titles = model.get('columns');
    head.replaceChildren(element('th'), ...titles.map((textContent, i) => {
      const cell = element('th');
      cell.append(element('button', { className: 'jupyter-button', type: 'button', textContent, onclick: () => {
        [sorted, way] = [i, sorted === i ? -way : 1];
        sort(true);
      } }));
      return cell;
    }));
    head.cells[0].append(all);
    sort();
  };
  const add = (name) => {
    const [line, box] = [body.insertRow(), element('input', { type: 'checkbox', ariaLabel: `choose ${name}` })];
    line.insertCell().append(box);
    line.onclick = ({ target }) => target.closest('details') || toggle(name);
    lines.set(name, Object.assign(line, { box }));
    return line;
  };
  const receive = ({ rows, order }) => {
    for (const { name, cells } of rows) {
      const line = lines.get(name) ?? add(name);
      line.keys = cells.map(([, key]) => key);
      while (line.cells.length > cells.length + 1) line.deleteCell(-1);
      cells.forEach(([html], i) => {
        const cell = line.cells[i + 1] ?? line.insertCell();
        if (cell.shown !== html) cell.innerHTML = cell.shown = html; // else an error that is open would be closed
      });
    }
    for (const [name, line] of lines) {
      if (order.includes(name)) continue;
      line.remove();
      lines.delete(name);
    }
    sort();
    showChosen();
  };
  body.onmouseleave = () => sort();
  body.addEventListener('focusout', () => setTimeout(sort));
  all.onchange = () => choose(all.checked ? [...lines.keys()] : []);
  el.addEventListener('focusin', ({ target }) => { target.dataset.lmSuppressShortcuts = 'true'; }); // else JupyterLab's keys act
  model.on('msg:custom', receive);
  model.on('change:chosen', showChosen);
  model.on('change:columns', showHead);
  showHead();
  model.send({ anew: true });
  return () => {
    model.off('msg:custom', receive);
    model.off('change:chosen', showChosen);
    model.off('change:columns', showHead);
  };
}

export default { render };
