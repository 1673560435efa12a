// Sends the place of a click in the first photograph or in one of its maps, and marks it at once.
const pick = (frame, x, y) => {
  [x, y] = [x, y].map(value => Math.max(0, Math.min(1, value)));
  document.querySelectorAll('.bit-frame[data-clicked] .bit-marker').forEach(marker => {
    marker.style.left = `${100 * x}%`;
    marker.style.top = `${100 * y}%`;
  });
  trigger('click', {x, y});
};
element.addEventListener('click', event => {
  const frame = event.target.closest('.bit-frame[data-clicked]');
  if (!frame) return;
  const box = frame.querySelector('img').getBoundingClientRect();
  pick(frame, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
});
element.addEventListener('keydown', event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const frame = event.target.closest('.bit-frame[data-clicked]');
  if (!frame || !step) return;
  event.preventDefault();
  const marker = frame.querySelector('.bit-marker').style;
  pick(frame, parseFloat(marker.left) / 100 + step[0] / 64, parseFloat(marker.top) / 100 + step[1] / 64);
});
