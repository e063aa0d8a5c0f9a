// The table of songs: filter, sort, and a file of decisions by hand. Without this script all songs are simply listed.
(() => {
  const PAGE = 100;
  const box = document.querySelector('.songs');
  if (!box) return;
  const body = box.querySelector('tbody');
  const rows = [...body.rows];
  const search = document.querySelector('#search');
  const chips = [...document.querySelectorAll('.chip')];
  const more = document.querySelector('.more');
  const count = document.querySelector('#count');
  const hand = document.querySelector('.hand');
  const file = hand && hand.querySelector('textarea');
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let chosen = '';
  let shown = PAGE;
  const draw = () => {
    const asked = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => (!chosen || row.dataset.verdict === chosen || row.dataset.reason === chosen)
      && asked.every((word) => words.get(row).includes(word));
    let found = 0;
    for (const row of body.rows) row.hidden = !fits(row) || ++found > shown;
    count.textContent = found + (found === 1 ? ' song' : ' songs') + (found > shown ? ', ' + shown + ' shown' : '');
    more.hidden = found <= shown;
  };
  const sort = (head, index) => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    box.querySelectorAll('thead th').forEach((one) => one.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = (row) => row.cells[index].dataset.key || row.cells[index].textContent;
    const order = new Intl.Collator('en', { numeric: true }).compare;
    rows.sort((one, other) => (up ? 1 : -1) * order(key(one), key(other)));
    body.append(...rows);
    draw();
  };
  const quoted = (word) => (/[",\r\n]/.test(word) || word !== word.trim() ? '"' + word.replaceAll('"', '""') + '"' : word);
  const write = () => {
    const pressed = rows.filter((row) => row.querySelector('.flip[aria-pressed=true]'));
    const lines = pressed.map((row) => quoted(row.dataset.id) + ',' + (row.dataset.verdict === 'kept' ? 'drop' : 'keep')
      + ',heard on the page of the curation');
    hand.hidden = !pressed.length;
    file.value = ['track_id,verdict,why', ...lines].join('\n') + '\n';
    file.rows = Math.min(12, lines.length + 2);
  };
  document.querySelectorAll('.script-only').forEach((one) => { one.hidden = false; });
  search.addEventListener('input', () => { shown = PAGE; draw(); });
  chips.forEach((chip) => chip.addEventListener('click', () => {
    chosen = chosen === chip.value ? '' : chip.value;
    chips.forEach((one) => one.setAttribute('aria-pressed', String(one.value === chosen)));
    shown = PAGE;
    draw();
  }));
  more.addEventListener('click', () => { shown += 10 * PAGE; draw(); });
  box.querySelectorAll('thead th').forEach((head, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    button.addEventListener('click', () => sort(head, index));
    head.replaceChildren(button);
  });
  box.querySelectorAll('.flip').forEach((button) => {
    button.hidden = false;
    button.addEventListener('click', () => {
      button.setAttribute('aria-pressed', String(button.getAttribute('aria-pressed') !== 'true'));
      write();
    });
  });
  draw();
})();
