#include "nibble/report/page_assets.h"

namespace nibble {

std::string_view page_script() {
  return R"js(
(() => {
  'use strict';
  // Legend items become switches.
  for (const item of document.querySelectorAll('.legend .item')) {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = item.className;
    button.innerHTML = item.innerHTML;
    button.setAttribute('aria-pressed', 'true');
    const group = item.dataset.series;
    button.addEventListener('click', () => {
      const show = button.getAttribute('aria-pressed') === 'false';
      button.setAttribute('aria-pressed', String(show));
      for (const e of document.querySelectorAll('.plot [data-group="' + group + '"]')) e.classList.toggle('off', !show);
    });
    item.replaceWith(button);
  }

  // Values under the pointer, read back from the drawn paths.
  const box = document.createElement('div');
  box.id = 'readout';
  box.hidden = true;
  document.body.append(box);
  const place = event => {
    box.hidden = false;
    const w = box.offsetWidth, h = box.offsetHeight;
    box.style.left = Math.max(4, event.clientX + 18 + w > innerWidth ? event.clientX - 18 - w : event.clientX + 18) + 'px';
    box.style.top = Math.max(4, Math.min(event.clientY - h / 2, innerHeight - h - 4)) + 'px';
  };
  const scale = text => {
    const [from, to, low, high, log] = text.split(' ').map(Number);
    return at => {
      const t = (at - from) / (to - from);
      return log ? low * Math.pow(high / low, t) : low + t * (high - low);
    };
  };
  const digits = v => Math.abs(v) >= 1000 ? Math.round(v).toLocaleString('en') :
    Math.abs(v) >= 0.01 || v === 0 ? String(+v.toPrecision(4)) : v.toExponential(2);
  const points = path => (path.getAttribute('d').match(/[-\d.]+ [-\d.]+/g) || []).map(p => p.split(' ').map(Number));
  for (const plot of document.querySelectorAll('svg.lines')) {
    const x = scale(plot.dataset.x), y = scale(plot.dataset.y);
    const lines = [...plot.querySelectorAll('path.line')].map(path => ({path, points: points(path)}));
    const [left, right] = plot.dataset.x.split(' ').map(Number);
    const [bottom, top] = plot.dataset.y.split(' ').map(Number);
    const cursor = document.createElementNS(plot.namespaceURI, 'line');
    cursor.setAttribute('class', 'cursor off');
    cursor.setAttribute('y1', top);
    cursor.setAttribute('y2', bottom);
    plot.append(cursor);
    const hide = () => { box.hidden = true; cursor.classList.add('off'); };
    plot.addEventListener('pointerleave', hide);
    plot.addEventListener('pointermove', event => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
      if (at.x < left - 4 || at.x > right + 4) return hide();
      const found = [];
      let nearest = at.x;
      let least = Infinity;
      for (const line of lines) {
        if (line.path.classList.contains('off') || line.path.classList.contains('faint')) continue;
        let best = null;
        for (const p of line.points) if (!best || Math.abs(p[0] - at.x) < Math.abs(best[0] - at.x)) best = p;
        if (!best || Math.abs(best[0] - at.x) > 25) continue;
        found.push({name: line.path.dataset.name, value: y(best[1]), kind: line.path.getAttribute('class').match(/k\d/)[0]});
        if (Math.abs(best[0] - at.x) < least) { least = Math.abs(best[0] - at.x); nearest = best[0]; }
      }
      if (!found.length) return hide();
      found.sort((a, b) => b.value - a.value);
      box.replaceChildren();
      const head = document.createElement('div');
      head.textContent = plot.dataset.xName + ' ' + digits(x(nearest));
      box.append(head);
      for (const f of found) {
        const row = document.createElement('div');
        const name = document.createElement('b');
        name.className = f.kind;
        name.textContent = f.name;
        const value = document.createElement('span');
        value.textContent = digits(f.value).replace('-', '\u2212');
        row.append(name, value);
        box.append(row);
      }
      cursor.setAttribute('x1', nearest);
      cursor.setAttribute('x2', nearest);
      cursor.classList.remove('off');
      place(event);
    });
  }

  // Maps over time: other figures drawn into the paths of the first, and the value under the pointer.
  const shown = v => digits(v).replace('-', '\u2212');
  const maps = [...document.querySelectorAll('svg.time-map')].map(svg => {
    const data = JSON.parse(svg.closest('figure').querySelector('script').textContent);
    const [left, top, width, height, pitchX, pitchY, perLine, rows, columns] = svg.dataset.map.split(' ').map(Number);
    const at = panel => [left + pitchX * (panel % perLine), top + pitchY * Math.floor(panel / perLine)];
    const value = (figure, panel, row, column) => {
      const i = 2 * ((panel * rows + row) * columns + column), base = data.digits.length;
      const code = data.digits.indexOf(figure.values[i]) * base + data.digits.indexOf(figure.values[i + 1]);
      return code === 0 ? NaN : code === 1 ? Infinity :
        figure.low + (figure.high - figure.low) * (code - 2) / (base * base - 3);
    };
    const paths = [...svg.querySelectorAll('path.cell')];
    const levelOf = (figure, v) => {
      const {pale, strong} = figure;
      return Number.isFinite(v) && pale !== strong ? Math.min(paths.length, Math.round(paths.length * (v - pale) / (strong - pale))) : 0;
    };
    const map = {data, key: Object.keys(data.figures)[0]};
    map.draw = key => {
      map.key = key;
      const figure = data.figures[key];
      const cells = paths.map(() => '');
      figure.panels.forEach((label, panel) => {
        const [x, y] = at(panel);
        for (let row = 0; row < rows; ++row) {
          for (let begin = 0, end; begin < columns; begin = end) {
            const level = levelOf(figure, value(figure, panel, row, begin));
            for (end = begin + 1; end < columns && levelOf(figure, value(figure, panel, row, end)) === level; ++end);
            if (level < 1) continue;
            const w = ((end - begin) * width).toFixed(1);
            cells[level - 1] += 'M' + (x + begin * width).toFixed(1) + ' ' + (y + row * height).toFixed(1) +
              'h' + w + 'v' + (height - 1) + 'h-' + w + 'z';
          }
        }
      });
      paths.forEach((path, i) => path.setAttribute('d', cells[i]));
      svg.querySelectorAll('text.panel').forEach((text, i) => { text.textContent = figure.panels[i] || ''; });
      svg.querySelectorAll('.panel-frame').forEach((e, i) => e.classList.toggle('off', i >= figure.panels.length));
    };
    const hide = () => { box.hidden = true; };
    svg.addEventListener('pointerleave', hide);
    svg.addEventListener('pointermove', event => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const figure = data.figures[map.key];
      for (let panel = 0; panel < figure.panels.length; ++panel) {
        const [x, y] = at(panel);
        const column = Math.floor((point.x - x) / width), row = Math.floor((point.y - y) / height);
        if (column < 0 || column >= columns || row < 0 || row >= rows) continue;
        const v = value(figure, panel, row, column);
        const head = document.createElement('div'), line = document.createElement('div');
        head.textContent = data.rows[row] + ' ' + figure.panels[panel] + ', step ' + data.steps[column];
        line.textContent = Number.isNaN(v) ? 'not logged' : v === Infinity ? 'exact' : shown(v) + ' ' + figure.unit;
        box.replaceChildren(head, line);
        return place(event);
      }
      hide();
    });
    return map;
  });
  for (const choose of document.querySelectorAll('.choose')) {
    const range = document.querySelector('.map-range');
    for (const [i, item] of [...choose.querySelectorAll('.item')].entries()) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = item.textContent;
      button.setAttribute('aria-pressed', String(i === 0));
      button.addEventListener('click', () => {
        for (const other of choose.querySelectorAll('button')) other.setAttribute('aria-pressed', String(other === button));
        for (const map of maps) map.draw(item.dataset.choice);
        const figure = maps[0].data.figures[item.dataset.choice];
        range.textContent = 'from ' + shown(figure.pale) + ', pale, to ' + shown(figure.strong) + (figure.unit && ' ' + figure.unit);
      });
      item.replaceWith(button);
    }
    choose.classList.add('live');
  }
})();
)js";
}

}  // namespace nibble
