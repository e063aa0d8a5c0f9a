// All stems of all versions run from one clock, in a loop; what is heard is decided by how loud each is.
(() => {
  const store = {
    get: (song) => { try { return JSON.parse(localStorage.getItem('stemline ' + song)) || [0, 0, 0]; } catch { return [0, 0, 0]; } },
    set: (song, votes) => { try { localStorage.setItem('stemline ' + song, JSON.stringify(votes)); } catch { /* a private window */ } },
  };
  // Votes are [no difference, first, second]. How often a fair coin would be at least as one-sided (sign test).
  const chance = (one, two) => {
    const total = one + two;
    let term = 0.5 ** total, sum = 0;
    for (let k = 0; k <= total; k += 1) {
      if (Math.min(k, total - k) <= Math.min(one, two)) sum += term;
      term *= (total - k) / (k + 1);
    }
    return Math.min(1, sum);
  };
  const tally = ([same, one, two]) => `first ${one}, second ${two}, no difference ${same}`
    + (one + two ? `; a coin is as one-sided in ${Math.round(100 * chance(one, two))} of 100 cases` : '');
  const index = document.querySelector('.versus-index');
  if (index) {
    const total = [0, 0, 0];
    index.querySelectorAll('.votes').forEach((cell) => {
      const votes = store.get(location.pathname.replace(/[^/]*$/, '') + cell.dataset.song);
      votes.forEach((count, place) => { total[place] += count; });
      cell.textContent = votes.some(Boolean) ? `${votes[1]} : ${votes[2]}` + (votes[0] ? ` (${votes[0]} same)` : '') : '–';
    });
    if (total.some(Boolean)) index.querySelector('.votes-total').textContent = 'Heard blind: ' + tally(total) + '.';
  }
  const root = document.querySelector('.versus');
  if (!root) return;
  const one = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const rate = Number(root.dataset.rate), length = Number(root.dataset.seconds);
  const song = location.pathname.replace(/[^/]*$/, '') + root.dataset.song;
  const names = all('.version .who').map((item) => item.textContent);
  const stems = all('.stem').map((row) => ({
    row, solo: row.querySelector('.solo'), mute: row.querySelector('.mute'), picture: row.querySelector('.picture'),
  }));
  const blocks = [...document.querySelectorAll('script[type="audio/flac"]')];
  let context = null, tracks = [], running = [], master = null;
  let version = 0, order = [0, 1, 2], blind = false, playing = false, offset = 0, startedAt = 0, loop = [0, length];
  const on = (button) => button.getAttribute('aria-pressed') === 'true';
  const press = (button, value) => button.setAttribute('aria-pressed', String(value));
  const clock = (seconds) => Math.floor(seconds / 60) + ':' + (seconds % 60).toFixed(1).padStart(4, '0');

  const decode = async (block) => {
    const text = atob(block.textContent);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    return context.decodeAudioData(bytes.buffer);
  };
  const load = async () => {
    context = new AudioContext({ sampleRate: rate });  // the song's own rate: nothing is resampled before the mix
    master = context.createGain();
    master.connect(context.destination);
    const buffers = await Promise.all(blocks.map(decode));
    tracks = blocks.map((block, place) => {
      const gain = context.createGain();
      gain.gain.value = 0;
      gain.connect(master);
      return { version: Number(block.dataset.version), stem: Number(block.dataset.stem), buffer: buffers[place], gain };
    });
  };
  let loading = null;
  const ready = () => (loading = loading || load());

  const position = () => {
    if (!playing) return offset;
    const at = offset + Math.max(0, context.currentTime - startedAt);
    return at < loop[1] ? at : loop[0] + ((at - loop[0]) % (loop[1] - loop[0]));
  };
  const mix = (soon = 0.005) => {
    const soloed = stems.some((stem) => on(stem.solo));
    tracks.forEach((track) => {
      const stem = stems[track.stem];
      const heard = track.version === order[version] && (soloed ? on(stem.solo) : !on(stem.mute));
      const gain = track.gain.gain, now = context.currentTime;
      gain.cancelScheduledValues(now);
      gain.setValueAtTime(gain.value, now);
      gain.linearRampToValueAtTime(heard ? 1 : 0, now + soon);  // a ramp of 5 ms, so that nothing clicks
    });
  };
  const halt = () => { running.forEach((node) => node.stop()); running = []; };
  const start = (from) => {
    halt();
    offset = from;
    startedAt = context.currentTime + 0.03;
    running = tracks.map((track) => {
      const node = context.createBufferSource();
      Object.assign(node, { buffer: track.buffer, loop: true, loopStart: loop[0], loopEnd: loop[1] });
      node.connect(track.gain);
      node.start(startedAt, from);
      return node;
    });
  };
  const seek = (seconds) => {
    const within = Math.max(loop[0], Math.min(seconds, loop[1] - 0.01));
    if (playing) start(within); else offset = within;
    draw();
  };
  const play = async () => {
    await ready();
    await context.resume();
    playing = true;
    start(offset);
    mix();
    draw();
    requestAnimationFrame(follow);
  };
  const stop = () => { offset = position(); playing = false; halt(); draw(); };
  const toggle = () => (playing ? stop() : play());
  const choose = (number) => { version = number; if (context) mix(); draw(); };
  const setLoop = (from, to) => {
    const at = position();
    loop = to - from < 0.05 ? [0, length] : [Math.max(0, from), Math.min(length, to)];
    if (playing || at < loop[0] || at >= loop[1]) seek(at >= loop[0] && at < loop[1] ? at : loop[0]);
    draw();
  };

  const draw = () => {
    const at = position();
    one('time').textContent = clock(at) + ' / ' + clock(length);
    press(one('.play'), playing);
    one('.play').textContent = playing ? '❚❚' : '▶';
    one('.play').setAttribute('aria-label', playing ? 'Stop' : 'Play');
    const whole = loop[0] === 0 && loop[1] === length;
    one('.loop-told').textContent = whole ? 'the excerpt repeats' : `${clock(loop[0])} to ${clock(loop[1])} repeats`;
    all('.version').forEach((button, place) => {
      press(button, place === version);
      button.querySelector('.who').textContent = blind && place ? ' AB'[place] : names[place];
    });
    root.classList.toggle('is-blind', blind);
    document.body.classList.toggle('hide-scores', blind);
    stems.forEach(({ picture }) => {
      picture.querySelector('.head').style.left = (at / length) * 100 + '%';
      const region = picture.querySelector('.region');
      region.hidden = whole;
      region.style.left = (loop[0] / length) * 100 + '%';
      region.style.width = ((loop[1] - loop[0]) / length) * 100 + '%';
      picture.querySelectorAll('.layer').forEach((layer, place) => { layer.hidden = place !== order[version]; });
    });
  };
  const follow = () => { if (playing) { draw(); requestAnimationFrame(follow); } };

  const flip = (button) => { press(button, !on(button)); if (context) mix(); };
  const shuffle = () => { order = crypto.getRandomValues(new Uint8Array(1))[0] & 1 ? [0, 2, 1] : [0, 1, 2]; };
  const setBlind = (value) => {
    blind = value;
    order = [0, 1, 2];
    if (blind) shuffle();
    press(one('.blind'), blind);
    one('.ballot').hidden = !blind;
    if (context) mix();
    draw();
  };
  const vote = (button) => {
    const number = order[Number(button.dataset.vote)];
    const votes = store.get(song);
    votes[number] += 1;
    store.set(song, votes);
    const said = number ? `You preferred the ${number === 1 ? 'first' : 'second'}: ${names[number]}.` : 'No difference, you said.';
    one('.told').textContent = `${said} So far on this song: ${tally(votes)}. A and B were drawn anew.`;
    shuffle();
    if (context) mix();
    draw();
  };

  one('.play').addEventListener('click', toggle);
  all('.version').forEach((button, place) => button.addEventListener('click', () => choose(place)));
  stems.forEach(({ solo, mute, picture }) => {
    [solo, mute].forEach((button) => button.addEventListener('click', () => flip(button)));
    const at = (event) => {
      const box = picture.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * length;
    };
    let from = null;
    picture.addEventListener('pointerdown', (event) => { from = at(event); picture.setPointerCapture(event.pointerId); });
    picture.addEventListener('pointerup', (event) => {
      const to = at(event);
      if (from !== null && Math.abs(to - from) > length / 100) setLoop(Math.min(from, to), Math.max(from, to));
      else if (from !== null) seek(to);
      from = null;
    });
  });
  one('.from').addEventListener('click', () => setLoop(position(), loop[1]));
  one('.to').addEventListener('click', () => setLoop(loop[0], position()));
  one('.all').addEventListener('click', () => setLoop(0, length));
  one('.blind').addEventListener('click', () => setBlind(!blind));
  all('.vote').forEach((button) => button.addEventListener('click', () => vote(button)));
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onButton = event.target.closest && event.target.closest('button, a, summary');
    const key = event.key.toLowerCase(), place = 'qwertyuiop'.indexOf(key);
    if (key === ' ') { if (onButton) return; toggle(); }
    else if ('123'.includes(key)) choose(Number(key) - 1);
    else if (place >= 0 && place < stems.length) flip(event.shiftKey ? stems[place].mute : stems[place].solo);
    else if (key === 'arrowleft') seek(position() - 1);
    else if (key === 'arrowright') seek(position() + 1);
    else if (key === 'home') seek(loop[0]);
    else if (key === '[') setLoop(position(), loop[1]);
    else if (key === ']') setLoop(loop[0], position());
    else if (key === 'l') setLoop(0, length);
    else if (key === 'b') setBlind(!blind);
    else return;
    event.preventDefault();
  });
  one('.play').disabled = false;
  draw();
})();
