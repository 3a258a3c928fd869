// Sets the tab's title, gives sliders their spoken names, and keeps the arrow keys of lists and sliders from
// JupyterLab, which would move between cells. `this` is the image that could not be loaded.
document.title = this.dataset.title;
for (const handle of document.querySelectorAll('.babysit .noUi-handle')) {
  const name = handle.closest('.jupyter-widgets')?.querySelector('.widget-label')?.textContent;
  if (name) handle.setAttribute('aria-label', name);
}
for (const list of document.querySelectorAll('.babysit :is(select, .noUi-handle)')) {
  list.setAttribute('data-lm-suppress-shortcuts', 'true');
}
