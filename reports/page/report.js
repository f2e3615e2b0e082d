"use strict";
// Tables that sort and filter, figures that enlarge and tell their values, and what cards.js builds upon.

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
};

const unpack = async letters => {
  const bytes = Uint8Array.from(atob(letters), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
};

const index = JSON.parse(document.getElementById("index").textContent);
const byName = new Map(index.map(entry => [entry.name, entry.id]));
const cardLink = (id, name) => element("a", { href: `#checkpoint=${id}` }, name);

// ---- theme

const themeButton = document.getElementById("theme");
const nameTheme = () => { themeButton.textContent = `theme: ${document.documentElement.dataset.chosen}`; };
themeButton.addEventListener("click", () => {
  const order = ["auto", "light", "dark"];
  const next = order[(order.indexOf(document.documentElement.dataset.chosen) + 1) % 3];
  try { if (next === "auto") localStorage.removeItem("ssa-analyze-theme"); else localStorage.setItem("ssa-analyze-theme", next); } catch { /* private window */ }
  showTheme();
  if (next !== "auto") { document.documentElement.dataset.chosen = next; document.documentElement.dataset.theme = next; }
  nameTheme();
});
nameTheme();

// ---- tables

const PAGE = 500; // rows shown at once
const FEW = 16; // rows that need no filter
const toNumber = text => {
  const number = /^\s*[-+]?(\d|\.\d|inf)/.test(text) ? parseFloat(text.replace("inf", "Infinity").replace(/(\d),(?=\d{3})/g, "$1")) : NaN;
  return number;
};
// a value, with its error and the star of what did not converge
const isValue = text => /^\s*([-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?( ± [\d.e+-]+)?( \*)?|-?inf|n\/a)\s*$/.test(text);
const bare = text => text.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

// "ssa-clr -s0 probeaccuracy>0.9": words that must be there, must not, and a comparison with a column
const readFilter = (text, columns) => text.split(/\s+/).filter(Boolean).map(term => {
  const compared = term.match(/^([^<>=]+)(<=|>=|<|>|=)(.+)$/);
  const column = compared ? columns.findIndex(name => bare(name).startsWith(bare(compared[1])) && bare(compared[1])) : -1;
  if (column >= 0) {
    const [, , sign, right] = compared, limit = parseFloat(right);
    const tests = { "<": v => v < limit, ">": v => v > limit, "<=": v => v <= limit, ">=": v => v >= limit };
    if (sign === "=") return cells => cells[column].toLowerCase().includes(right.toLowerCase());
    return cells => tests[sign](toNumber(cells[column]));
  }
  const out = term.length > 1 && term.startsWith("-"), word = (out ? term.slice(1) : term).toLowerCase();
  return cells => cells.some(cell => cell.toLowerCase().includes(word)) !== out;
});

const drawRow = (cells, numeric, names) => element("tr", {}, ...cells.map((text, column) => {
  const cell = element("td", numeric[column] ? { class: "number" } : text.length > 90 ? { class: "wide" } : {});
  cell.append(names.has(column) && byName.has(text) ? cardLink(byName.get(text), text) : text);
  return cell;
}));

const setUpTable = (holder, given = null) => {
  const table = holder.querySelector("table"), body = table.tBodies[0];
  const columns = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  const names = new Set(columns.flatMap((name, column) => (name === "checkpoint" ? [column] : [])));
  let rows = given ?? [...body.rows].map(row => [...row.cells].map(cell => cell.textContent));
  let shown = rows, limit = PAGE, numeric = [];
  const input = element("input", { type: "search", placeholder: "filter: words, -word, column>number", "aria-label": "Filter rows" });
  const count = element("span", { class: "soft" }), more = element("button", { type: "button" }, "more rows");
  const render = () => {
    body.replaceChildren(...shown.slice(0, limit).map(cells => drawRow(cells, numeric, names)));
    const few = Math.min(limit, shown.length);
    count.textContent = few < shown.length ? `${few} of ${shown.length} rows shown` : shown.length < rows.length ? `${shown.length} of ${rows.length} rows` : "";
    more.hidden = few >= shown.length;
  };
  const begin = () => {
    numeric = columns.map((_, column) => { const filled = rows.slice(0, PAGE).map(cells => cells[column]).filter(Boolean); return filled.length > 0 && filled.every(isValue); });
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) head.classList.toggle("number", numeric[column]);
    input.hidden = rows.length < FEW;
    shown = rows;
    render();
  };
  const sorting = { column: -1, up: true };
  const apply = () => {
    const tests = readFilter(input.value, columns);
    shown = rows.filter(cells => tests.every(test => test(cells)));
    if (sorting.column >= 0) {
      const { column, up } = sorting;
      const keys = new Map(shown.map(cells => [cells, toNumber(cells[column])]));
      const compare = (one, other) => {
        const [a, b] = [keys.get(one), keys.get(other)];
        if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
        return one[column].localeCompare(other[column]);
      };
      shown = [...shown].sort((one, other) => {
        const [emptyOne, emptyOther] = [one[column] === "", other[column] === ""]; // what is missing stays at the end
        if (emptyOne || emptyOther) return emptyOne - emptyOther;
        return up ? compare(one, other) : compare(other, one);
      });
    }
    render();
  };
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    head.tabIndex = 0;
    const sort = () => {
      sorting.up = !(sorting.column === column && sorting.up);
      sorting.column = column;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sorting.up ? "ascending" : "descending");
      limit = PAGE;
      apply();
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  }
  input.addEventListener("input", () => { limit = PAGE; apply(); });
  more.addEventListener("click", () => { limit += 5 * PAGE; render(); });
  holder.prepend(element("div", { class: "tools" }, input, count, more));
  if (given === null && holder.dataset.rows) {
    // a long table: unpacked when it comes near the screen
    more.hidden = true;
    new IntersectionObserver(async (entries, observer) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      rows = await unpack(holder.dataset.rows);
      begin();
    }, { rootMargin: "600px" }).observe(holder);
  } else begin();
};
for (const holder of document.querySelectorAll(".table")) setUpTable(holder);

// ---- figures: values under the pointer, and a window as large as the screen

const tip = document.getElementById("tip"), spot = element("div", { class: "spot", hidden: "" });
document.body.append(spot);
const REACH = 28; // pixels within which a point is found
const hide = () => { tip.hidden = true; spot.hidden = true; };

const nearest = (axes, box, event) => {
  let best = null, least = REACH;
  const x = 1000 * (event.clientX - box.left) / box.width, y = 1000 * (event.clientY - box.top) / box.height;
  for (const { box: [left, top, right, bottom], points } of axes) {
    if (x < left - 8 || x > right + 8 || y < top - 8 || y > bottom + 8) continue;
    for (const point of points) {
      const far = Math.hypot((point[0] - x) * box.width, (point[1] - y) * box.height) / 1000;
      if (far < least) { least = far; best = point; }
    }
  }
  return best;
};

const listen = (drawing, letters) => {
  let axes = null, waiting = false;
  drawing.addEventListener("pointermove", async event => {
    if (axes === null) {
      if (waiting) return;
      waiting = true;
      axes = await unpack(letters);
    }
    const svg = drawing.querySelector("svg");
    const box = svg.getBoundingClientRect();
    // an svg keeps its proportions: what it draws may be narrower or lower than its box
    const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number), scale = Math.min(box.width / w, box.height / h);
    const inner = { width: w * scale, height: h * scale };
    inner.left = box.left + (box.width - inner.width) / 2;
    inner.top = box.top + (box.height - inner.height) / 2;
    const point = nearest(axes, inner, event);
    if (!point) { hide(); return; }
    const [x, y] = [inner.left + point[0] * inner.width / 1000, inner.top + point[1] * inner.height / 1000];
    const home = drawing.closest("dialog") ?? document.body; // a dialog lies above all else
    home.append(spot, tip);
    tip.textContent = point[2];
    tip.hidden = spot.hidden = false;
    Object.assign(spot.style, { left: `${x}px`, top: `${y}px` });
    const size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - size.width - 4))}px`;
    tip.style.top = `${y - size.height - 12 > 4 ? y - size.height - 12 : y + 14}px`;
  });
  drawing.addEventListener("pointerleave", hide);
};

const enlarged = document.getElementById("enlarged");
const setUpFigure = drawing => {
  if (drawing.dataset.hover) listen(drawing, drawing.dataset.hover);
  drawing.tabIndex = 0;
  const enlarge = () => {
    if (drawing.closest("dialog")) return;
    const copy = drawing.cloneNode(true);
    copy.removeAttribute("tabindex");
    if (copy.dataset.hover) listen(copy, copy.dataset.hover);
    enlarged.querySelector(".place").replaceChildren(copy);
    hide();
    enlarged.showModal();
  };
  drawing.addEventListener("click", enlarge);
  drawing.addEventListener("keydown", event => { if (event.key === "Enter") enlarge(); });
};
for (const drawing of document.querySelectorAll(".drawing")) setUpFigure(drawing);
enlarged.addEventListener("click", event => { if (event.target === enlarged) enlarged.close(); });
enlarged.addEventListener("close", hide);
addEventListener("scroll", hide, { passive: true });

// ---- names of checkpoints in the findings lead to their pages

const longestFirst = [...byName.keys()].filter(name => name.length > 2).sort((a, b) => b.length - a.length);
for (const item of document.querySelectorAll(".findings li")) {
  for (const node of [...item.childNodes].filter(child => child.nodeType === Node.TEXT_NODE)) {
    const parts = [];
    let rest = node.textContent;
    while (rest) {
      const found = longestFirst.map(name => [rest.search(new RegExp(`(?<![\\w-])${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?![\\w-])`)), name])
        .filter(([place]) => place >= 0).sort((a, b) => a[0] - b[0] || b[1].length - a[1].length)[0];
      if (!found) break;
      parts.push(rest.slice(0, found[0]), cardLink(byName.get(found[1]), found[1]));
      rest = rest.slice(found[0] + found[1].length);
    }
    node.replaceWith(...parts, rest);
  }
}
