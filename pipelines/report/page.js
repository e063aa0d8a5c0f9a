// One position for all players: starting one stops the others and goes on from the same place.
(() => {
  const players = [...document.querySelectorAll('.player')].map((figure) => ({
    figure, audio: figure.querySelector('audio'), button: figure.querySelector('button'),
    picture: figure.querySelector('.picture'), head: figure.querySelector('.head'), time: figure.querySelector('time'),
  }));
  const clock = (seconds) => {
    const whole = Math.floor(seconds);
    return Math.floor(whole / 60) + ':' + String(whole % 60).padStart(2, '0');
  };
  let position = 0;
  let playing = null;
  const draw = () => players.forEach((one) => {
    const length = one.audio.duration || 0;
    one.time.textContent = clock(position) + ' / ' + clock(length);
    one.picture.classList.toggle('at', position > 0 || one === playing);
    one.head.style.left = (length ? Math.min(1, position / length) * 100 : 0) + '%';
    one.button.textContent = one === playing ? '\u275a\u275a' : '\u25b6';
    one.button.setAttribute('aria-pressed', String(one === playing));
  });
  const stop = () => { if (playing) playing.audio.pause(); playing = null; draw(); };
  const start = (one) => {
    stop();
    if (position >= (one.audio.duration || Infinity) - 0.05) position = 0;
    one.audio.currentTime = position;
    playing = one;
    one.audio.play().catch(stop);
    draw();
  };
  const seek = (seconds) => {
    const longest = Math.max(...players.map((one) => one.audio.duration || 0));
    position = Math.max(0, Math.min(seconds, longest));
    if (playing) playing.audio.currentTime = position;
    draw();
  };
  const follow = () => {
    if (playing && !playing.audio.seeking) { position = playing.audio.currentTime; draw(); }
    requestAnimationFrame(follow);
  };
  players.forEach((one) => {
    one.figure.classList.add('script');
    one.audio.controls = false;
    one.button.hidden = false;
    one.button.addEventListener('click', () => (playing === one ? stop() : start(one)));
    one.picture.addEventListener('click', (event) => {
      const box = one.picture.getBoundingClientRect();
      seek((event.clientX - box.left) / box.width * (one.audio.duration || 0));
      if (playing !== one) start(one);
    });
    one.audio.addEventListener('ended', () => { position = 0; stop(); });
    one.audio.addEventListener('loadedmetadata', draw);
    one.figure.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); seek(position + step); }
      if (event.key === 'Home') { event.preventDefault(); seek(0); }
    });
  });
  if (players.length) { draw(); requestAnimationFrame(follow); }
})();
