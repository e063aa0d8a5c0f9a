// One position for all players of a group: starting one stops the others and goes on from the same place.
(() => {
  const players = [...document.querySelectorAll('.player')].map((figure) => ({
    figure, audio: figure.querySelector('audio'), button: figure.querySelector('button'),
    picture: figure.querySelector('.picture'), head: figure.querySelector('.head'), time: figure.querySelector('time'),
    group: figure.closest('.players'),
  }));
  const clock = (seconds) => {
    const whole = Math.floor(seconds);
    return Math.floor(whole / 60) + ':' + String(whole % 60).padStart(2, '0');
  };
  const positions = new Map(players.map((one) => [one.group, 0]));
  let playing = null;
  const lengthOf = (one) => one.audio.duration || Number(one.audio.dataset.seconds) || 0;
  const draw = () => players.forEach((one) => {
    const length = lengthOf(one);
    const position = positions.get(one.group);
    one.time.textContent = clock(position) + ' / ' + clock(length);
    one.picture.classList.toggle('at', position > 0 || one === playing);
    one.head.style.left = (length ? Math.min(1, position / length) * 100 : 0) + '%';
    one.button.textContent = one === playing ? '\u275a\u275a' : '\u25b6';
    one.button.setAttribute('aria-pressed', String(one === playing));
  });
  const stop = () => { if (playing) playing.audio.pause(); playing = null; draw(); };
  const stopIf = (one) => { if (playing === one) stop(); else draw(); };
  const start = (one) => {
    stop();
    if (positions.get(one.group) >= (lengthOf(one) || Infinity) - 0.05) positions.set(one.group, 0);
    one.audio.currentTime = positions.get(one.group);
    playing = one;
    one.audio.play().catch(() => stopIf(one));  // also when another was started before this one had loaded
    draw();
  };
  const seek = (group, seconds) => {
    const longest = Math.max(...players.filter((one) => one.group === group).map(lengthOf));
    positions.set(group, Math.max(0, Math.min(seconds, longest)));
    if (playing && playing.group === group) playing.audio.currentTime = positions.get(group);
    draw();
  };
  const follow = () => {
    if (playing && !playing.audio.seeking) { positions.set(playing.group, playing.audio.currentTime); draw(); }
    requestAnimationFrame(follow);
  };
  players.forEach((one) => {
    one.figure.classList.add('script');
    one.audio.controls = false;
    one.button.hidden = false;
    one.button.addEventListener('click', () => (playing === one ? stop() : start(one)));
    one.picture.addEventListener('click', (event) => {
      const box = one.picture.getBoundingClientRect();
      seek(one.group, (event.clientX - box.left) / box.width * lengthOf(one));
      if (playing !== one) start(one);
    });
    one.audio.addEventListener('ended', () => { positions.set(one.group, 0); stopIf(one); });
    one.audio.addEventListener('loadedmetadata', draw);
    one.figure.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); seek(one.group, positions.get(one.group) + step); }
      if (event.key === 'Home') { event.preventDefault(); seek(one.group, 0); }
    });
  });
  if (players.length) { draw(); requestAnimationFrame(follow); }
})();
