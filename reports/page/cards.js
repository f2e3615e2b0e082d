"use strict";
// A page for each checkpoint, and for two of them side by side, drawn from the data that the report carries along.

const payloads = new Map([...document.querySelectorAll("script.payload")].map(script => [script.dataset.card, script]));
const cards = new Map();
const cardOf = async id => {
  if (!cards.has(id)) cards.set(id, await unpack(payloads.get(id).textContent.trim()));
  return cards.get(id);
};
const digits = (value, count = 4) => (value === null || value === undefined ? "" : Number(value.toPrecision(count)).toString());
const between = (value, low, high) => digits(value) + (low !== null && high !== null && high > low ? ` [${digits(low)}, ${digits(high)}]` : "");
const heading = text => element("h3", {}, text);

// Each of `sides` is a card with the colour of its marks; with one side, its name need not be said.
const SIDE = ["var(--a)", "var(--b)"];
const told = (sides, card, text) => (sides.length > 1 ? `${card.name}\n${text}` : text);
const chart = (options, marks, width = 540) => Plot.plot({
  width, height: 250, marginLeft: 58, marginRight: 18, grid: true,
  style: { background: "transparent", color: "inherit", fontSize: "11px", overflow: "visible" }, ...options, marks: marks.flat(),
});
const marksOf = (data, x, y, colour, horizontal = false) => {
  const bar = horizontal ? Plot.ruleY : Plot.ruleX, ends = horizontal ? { x1: "low", x2: "high", y } : { y1: "low", y2: "high", x };
  return [
    bar(data.filter(d => d.low !== null && d.high !== null), { ...ends, stroke: colour, strokeWidth: 1.3 }),
    Plot.dot(data, { x, y, fill: d => (d.open ? "var(--paper)" : colour), stroke: colour, r: 3.5, title: "title", tip: true }),
  ];
};

const plots = {
  eigenvalues: {
    title: "Largest eigenvalues of the Hessian",
    draw: sides => {
      const parts = sides.map(([card, colour], side) => [card.plots.eigenvalues.map(([index, value, low, high]) => ({
        index: index + (sides.length > 1 ? 0.16 * side - 0.08 : 0), value, low, high,
        title: told(sides, card, `eigenvalue ${index}: ${between(value, low, high)} nats`),
      })), colour]);
      const positive = parts.every(([data]) => data.every(d => d.value > 0 && (d.low ?? 1) > 0));
      const most = Math.max(...sides.map(([card]) => card.plots.eigenvalues.length));
      return chart({ x: { label: "index", ticks: [...Array(most).keys()].map(i => i + 1), tickFormat: "d", inset: 12 }, y: { label: "eigenvalue (nats)", inset: 8, ticks: 6, type: positive ? "log" : "linear", tickFormat: positive ? "~g" : undefined } },
        parts.map(([data, colour]) => marksOf(data, "index", "value", colour)));
    },
  },
  density: {
    title: "Spectral density of the Hessian",
    draw: sides => {
      const parts = sides.map(([card, colour]) => { const { x, y, low, high } = card.plots.density; return [x.map((at, i) => ({ x: at, y: y[i] > 0 ? y[i] : null, low: low?.[i] > 0 ? low[i] : null, high: high?.[i] > 0 ? high[i] : null, title: told(sides, card, `${digits(y[i], 3)} per nat at ${digits(at, 3)} nats`) })), colour]; });
      const top = Math.max(...parts.flatMap(([data]) => data.map(d => d.y ?? 0))), floor = top * 1e-7;
      const ends = d3.extent(parts.flatMap(([data]) => data.map(d => d.x))), constant = Math.max(-ends[0], ends[1]) / 100 || 1;
      const decades = d3.range(Math.ceil(Math.log10(constant)), 1 + Math.floor(Math.log10(100 * constant))).map(k => 10 ** k);
      const ticks = [...decades.map(v => -v).reverse(), 0, ...decades].filter(v => v >= ends[0] && v <= ends[1]);
      return chart({ x: { label: "eigenvalue (nats)", type: "symlog", constant, ticks, tickFormat: "~g" }, y: { label: "density (1/nats)", type: "log", domain: [floor, top * 2], clamp: true, ticks: 5, tickFormat: ".0e" } },
        parts.map(([data, colour]) => [
          Plot.areaY(data.filter(d => d.low && d.high), { x: "x", y1: "low", y2: "high", fill: colour, fillOpacity: 0.18, clip: true }),
          Plot.line(data, { x: "x", y: "y", stroke: colour, strokeWidth: 1.5, title: "title", tip: "x", clip: true }),
        ]));
    },
  },
  slices: {
    title: "Loss around the weights",
    draw: sides => element("div", { class: "pair" }, ...sides.flatMap(([card]) => card.plots.slices.map(([name, offset, loss, low, high]) => {
      const data = offset.map((x, i) => ({ x, y: loss[i], low: low?.[i] ?? null, high: high?.[i] ?? null, title: `${digits(loss[i])} nats at ${digits(x, 3)}` }));
      const colour = sides.find(([other]) => other === card)[1];
      return element("div", {}, element("div", { class: "soft" }, told(sides, card, name)), chart({ height: 170, x: { label: "offset", ticks: 5 }, y: { label: "loss (nats)", ticks: 5 } }, [
        Plot.areaY(data.filter(d => d.low !== null), { x: "x", y1: "low", y2: "high", fill: colour, fillOpacity: 0.18 }),
        Plot.line(data, { x: "x", y: "y", stroke: colour, strokeWidth: 1.6, title: "title", tip: "x" }),
      ], 300));
    }))),
  },
  surface: {
    title: "Loss on a random filter-normalised plane",
    draw: sides => {
      const cells = sides.map(([card]) => { const { x, y, loss } = card.plots.surface; return loss.flatMap((row, j) => row.map((value, i) => ({ x: x[i], y: y[j], value, title: `loss ${digits(value)} nats\nat ${digits(x[i], 3)}, ${digits(y[j], 3)}` }))); });
      const values = cells.flat().map(d => d.value).filter(v => v !== null), [low, high] = [Math.min(...values), Math.max(...values)];
      const color = { scheme: "cividis", domain: [low, high], type: low > 0 && high / low > 50 ? "log" : "linear", label: "loss (nats)" };
      return element("div", { class: "pair" }, ...sides.map(([card], side) => element("div", {}, sides.length > 1 ? element("div", { class: "soft" }, card.name) : null,
        chart({ width: 330, height: 290, marginBottom: 36, grid: false, color: { ...color, legend: side === sides.length - 1 }, x: { label: "first direction (filter norms)", ticks: 5, tickSize: 0, domain: card.plots.surface.x, tickFormat: (d, i, all) => (i % Math.ceil(all.length / 5) === 0 ? digits(d, 2) : "") }, y: { label: "second", domain: [...card.plots.surface.y].reverse(), tickSize: 0, tickFormat: (d, i, all) => (i % Math.ceil(all.length / 5) === 0 ? digits(d, 2) : "") } },
          [Plot.cell(cells[side], { x: "x", y: "y", fill: "value", inset: -0.5, title: "title", tip: true })], 330))));
    },
  },
  coordinates: {
    title: "Shift: MMD² of ideal and practical pairs",
    note: "Filled: the permutation test rejects at 0.05.",
    draw: sides => chart({ height: 40 + 34 * sides[0][0].plots.coordinates.length, marginLeft: 100, x: { label: "MMD² (unbiased)", ticks: 5 }, y: { label: null, type: "point", domain: sides[0][0].plots.coordinates.map(row => row[0]), padding: 0.6 } }, [
      Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.5 }),
      ...sides.map(([card, colour], side) => card.plots.coordinates.map(([name, value, low, high, p]) => ({ name, value, low, high, open: p > 0.05, title: told(sides, card, `${name}: ${between(value, low, high)}\np ${digits(p, 2)}`) })).map(d => ({ ...d, dy: sides.length > 1 ? 10 * side - 5 : 0 })))
        .map((data, side) => [
          Plot.ruleY(data, { x1: "low", x2: "high", y: "name", stroke: sides[side][1], strokeWidth: 1.3, dy: data[0]?.dy }),
          Plot.dot(data, { x: "value", y: "name", r: 3.5, stroke: sides[side][1], fill: d => (d.open ? "var(--paper)" : sides[side][1]), title: "title", tip: true, dy: data[0]?.dy }),
        ]),
    ]),
  },
  similarities: {
    title: "Similarity within ideal and practical pairs",
    draw: sides => element("div", { class: "pair" }, ...sides.map(([card]) => {
      const { edges, ideal, practical } = card.plots.similarities;
      const bars = heights => heights.map((y, i) => ({ x1: edges[i], x2: edges[i + 1], y, title: `${digits(edges[i], 3)} to ${digits(edges[i + 1], 3)}\nideal ${digits(ideal[i], 3)}, practical ${digits(practical[i], 3)}` }));
      return element("div", {}, sides.length > 1 ? element("div", { class: "soft" }, card.name) : null, chart({ height: 200, x: { label: "z·z⁺" }, y: { label: "density" } }, [
        Plot.rectY(bars(practical), { x1: "x1", x2: "x2", y: "y", fill: "var(--band)", fillOpacity: 0.6, title: "title", tip: "x", insetLeft: 0, insetRight: 0 }),
        Plot.line([...ideal.flatMap((y, i) => [{ x: edges[i], y }, { x: edges[i + 1], y }])], { x: "x", y: "y", stroke: "currentColor", strokeWidth: 1.3 }),
      ]), element("div", { class: "soft" }, "Line: two images of a class (ideal). Area: two views of an image (practical)."));
    })),
  },
  variants: {
    title: "The adviser: shift under each augmentation",
    draw: sides => element("div", { class: "pair" }, ...sides.map(([card, colour]) => {
      const data = card.plots.variants.map(([name, group, value, low, high]) => ({ name: name.replaceAll("_", " "), group, value, low, high, title: `${name.replaceAll("_", " ")} (${group})\n${between(value, low, high)}` }));
      return element("div", {}, sides.length > 1 ? element("div", { class: "soft" }, card.name) : null, chart({ height: 40 + 15 * data.length, marginLeft: 130, x: { label: "shift (Gaussian W²)" }, y: { label: null, type: "point", domain: data.map(d => d.name), padding: 0.6 }, color: { legend: true, scheme: "Observable10" } }, [
        Plot.ruleX(data.filter(d => d.name === "recipe"), { x: "value", stroke: "currentColor", strokeOpacity: 0.5 }),
        Plot.ruleY(data, { x1: "low", x2: "high", y: "name", stroke: "group", strokeWidth: 1.3 }),
        Plot.dot(data, { x: "value", y: "name", r: 3, fill: "group", title: "title", tip: true }),
      ]));
    })),
  },
  corruptions: {
    title: "Accuracy under corruptions",
    draw: sides => element("div", { class: "pair" }, ...sides.map(([card]) => {
      const { corruption, severity, accuracy, stderr, clean, note } = card.plots.corruptions;
      const cells = corruption.flatMap((name, i) => severity.map((level, j) => ({ name: name.replaceAll("_", " "), level, value: accuracy[i][j], title: `${name.replaceAll("_", " ")}, severity ${level}\n${digits(accuracy[i][j])} ± ${digits(stderr[i][j], 2)}` })));
      return element("div", {}, element("div", { class: "soft" }, `${sides.length > 1 ? `${card.name}: ` : ""}clean images ${digits(clean)}${note ? `; corrupted images ${note}` : ""}`),
        chart({ height: 60 + 16 * corruption.length, marginLeft: 110, grid: false, x: { label: "severity", type: "band", tickSize: 0 }, y: { label: null, domain: corruption.map(name => name.replaceAll("_", " ")), tickSize: 0 }, color: { scheme: "cividis", legend: true, label: "accuracy", domain: [Math.min(...sides.flatMap(([c]) => c.plots.corruptions.accuracy.flat())), Math.max(...sides.map(([c]) => c.plots.corruptions.clean))] } },
          [Plot.cell(cells, { x: "level", y: "name", fill: "value", inset: 0.5, title: "title", tip: true })], 360));
    })),
  },
  waterfall: {
    title: "From the trained probe's loss to its bound",
    note: "Dashed: the chance level H(π); a bound above it says nothing.",
    draw: sides => element("div", { class: "pair" }, ...sides.map(([card]) => {
      const { step, value, chance } = card.plots.waterfall;
      let sum = 0;
      const bars = step.map((name, i) => { const start = i ? sum : 0; sum = start + value[i]; return { name: name.replace(/ \(R(\d)\)/, " R$1"), start, end: sum, kind: i ? (value[i] < 0 ? "down" : "up") : "loss", title: `${name}: ${i ? (value[i] >= 0 ? "+" : "") : ""}${digits(value[i])} nats` }; });
      bars.push({ name: "bound", start: 0, end: sum, kind: "bound", title: `bound: ${digits(sum)} nats` });
      return element("div", {}, sides.length > 1 ? element("div", { class: "soft" }, card.name) : null, chart({ height: 290, marginBottom: 90, x: { label: null, domain: bars.map(d => d.name), tickRotate: -40 }, y: { label: "nats" } }, [
        Plot.rectY(bars, { x: "name", y1: "start", y2: "end", fill: d => ({ loss: "var(--grey)", bound: "var(--grey)", up: "#d55e00", down: "#56b4e9" })[d.kind], title: "title", tip: true, interval: null }),
        chance === null || chance === undefined ? [] : Plot.ruleY([chance], { stroke: "currentColor", strokeDasharray: "5 4" }),
      ].flat()));
    })),
  },
};

const history = (sides, score) => {
  const label = { loss: "training loss (nats)", knn: "kNN accuracy in training" }[score] ?? score;
  return element("div", {}, chart({ height: 190, x: { label: "epoch", ticks: 5 }, y: { label, ticks: 5 } }, sides.filter(([card]) => card.history[score]).map(([card, colour]) => {
    const data = card.history[score].map(([epoch, value, low, high]) => ({ epoch, value, low, high, title: told(sides, card, `${label} ${between(value, low, high)}\nepoch ${epoch}`) }));
    return [Plot.ruleX(data.filter(d => d.low !== null && d.high !== null), { x: "epoch", y1: "low", y2: "high", stroke: colour }), Plot.line(data, { x: "epoch", y: "value", stroke: colour, title: "title", tip: "x" })];
  }), 300));
};

const drawPlots = (sides, place) => {
  for (const [name, { title, note, draw }] of Object.entries(plots)) {
    const own = sides.filter(([card]) => card.plots[name]);
    const wide = own.length > 1 && ["slices", "surface", "similarities", "variants", "corruptions", "waterfall"].includes(name);
    if (own.length) place.append(element("div", { class: wide ? "plot whole" : "plot", "data-plot": name }, heading(title), draw(own), note ? element("div", { class: "soft" }, note) : null));
  }
  const scores = [...new Set(sides.flatMap(([card]) => Object.keys(card.history)))];
  if (scores.length) place.append(element("div", { class: "plot whole", "data-plot": "history" }, heading("While it trained"), element("div", { class: "pair" }, ...scores.map(score => history(sides, score)))));
};

// ---- tables of a card

const tableOf = (columns, rows) => {
  const holder = element("div", { class: "table" }, element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...columns.map(name => element("th", { scope: "col" }, name)))), element("tbody"))));
  setUpTable(holder, rows);
  return holder;
};
const scoreRow = ([measure, name, , value, stderr, low, high, unit, converged, kind, note]) =>
  [measure, name, digits(value, 5), digits(stderr, 2), digits(low, 4), digits(high, 4), unit, kind, [converged ? "" : "did not converge", note].filter(Boolean).join("; ")];

const origin = card => {
  const facts = {
    path: card.path, "SHA-256": card.sha256, method: card.method, architecture: card.architecture, layout: card.layout,
    weights: card.weights?.toLocaleString("en"), heads: [card.projector ? "projector" : "", card.classifier ? "classifier" : ""].filter(Boolean).join(", ") || (card.layout ? "none" : ""),
    "trained on": card.trained_on, ...card.training,
    "left over in the file": Object.entries(card.left_over).map(([key, why]) => `${key} (${why})`).join(", "),
  };
  const list = element("dl", { class: "origin" });
  for (const [name, value] of Object.entries(facts)) {
    if (value !== null && value !== undefined && value !== "") list.append(element("dt", {}, name), element("dd", {}, typeof value === "number" ? digits(value, 5) : String(value)));
  }
  return list;
};
const recipe = card => {
  const rows = Object.entries(card.recipe);
  if (!rows.length) return null;
  const list = element("dl", { class: "origin" });
  for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, String(value)));
  return element("details", {}, element("summary", {}, "Recipe of its training"), list);
};
const place = ({ rank, of, better }) => (rank ? `${rank} of ${of}, ${better} is better` : "");

const sheetOf = card => {
  const figure = card.sheet ? document.getElementById(card.sheet) : null;
  if (!figure) return null;
  const copy = figure.cloneNode(true);
  copy.removeAttribute("id");
  setUpFigure(copy.querySelector(".drawing"));
  return copy;
};

const overview = document.getElementById("overview"), page = document.getElementById("card");
const plainTitle = document.title;

const showCard = async id => {
  const card = await cardOf(id);
  const compare = element("form", { class: "pick" }, element("label", {}, "Side by side with ", element("input", { name: "second", list: "names", required: "", placeholder: "checkpoint" })), element("button", {}, "compare"));
  compare.addEventListener("submit", event => {
    event.preventDefault();
    const other = byName.get(compare.second.value);
    if (other) location.hash = `#compare=${id},${other}`; else compare.second.setCustomValidity("There is no such checkpoint."), compare.second.reportValidity();
  });
  compare.second.addEventListener("input", () => compare.second.setCustomValidity(""));
  const drawn = element("div", { class: "plots" });
  page.replaceChildren(element("p", {}, element("a", { href: "#checkpoints" }, "← all checkpoints")), element("h1", {}, card.name), origin(card), ...[
    card.assumptions.length ? element("p", { class: "warn" }, `Assumed, for the file does not say: ${card.assumptions.join("; ")}.`) : null,
    recipe(card), index.length > 1 ? compare : null,
    card.failures.length ? element("p", { class: "warn" }, `Failed: ${card.failures.map(([measure, error]) => `${measure} (${error})`).join("; ")}`) : null,
    card.key.length ? element("h2", {}, "In brief") : null,
    card.key.length ? tableOf(["score", "value", "among the checkpoints"], card.key.map(row => [row.label, row.text, place(row)])) : null,
    element("h2", {}, "Evidence"), drawn, sheetOf(card),
    card.scores.length ? element("h2", {}, "All scores") : element("p", {}, "There are no scores of this checkpoint."),
    card.scores.length ? tableOf(["measure", "score", "value", "stderr", "low", "high", "unit", "error", "note"], card.scores.map(scoreRow)) : null,
  ].filter(Boolean));
  drawPlots([[card, SIDE[0]]], drawn);
  if (!drawn.children.length) drawn.previousElementSibling.remove();
  document.title = `${card.name}: ssa-analyze report`;
};

// Second less first, with the error that both together have; the same rule as `ssa-analyze compare`.
const difference = (a, b) => {
  const [, , , valueA, stderrA, lowA, highA, , , kindA] = a, [, , , valueB, stderrB, lowB, highB, , , kindB] = b;
  const by = valueB - valueA;
  if (valueA === null || valueB === null || kindA === "unknown" || kindB === "unknown") return { by: valueA === null || valueB === null ? null : by, low: null, high: null, separable: false };
  if (kindA === "bounds" || kindB === "bounds") {
    const [la, ha] = kindA === "exact" ? [valueA, valueA] : [lowA, highA], [lb, hb] = kindB === "exact" ? [valueB, valueB] : [lowB, highB];
    return { by, low: lb - ha, high: hb - la, separable: lb - ha > 0 || hb - la < 0 };
  }
  const reach = 1.96 * Math.hypot(kindA === "exact" ? 0 : stderrA, kindB === "exact" ? 0 : stderrB);
  return { by, low: by - reach, high: by + reach, separable: by - reach > 0 || by + reach < 0 };
};

const showPair = async (one, other) => {
  const pair = [await cardOf(one), await cardOf(other)];
  const right = new Map(pair[1].scores.map(score => [`${score[0]}.${score[1]}`, score]));
  const rows = pair[0].scores.filter(score => right.has(`${score[0]}.${score[1]}`)).map(score => {
    const match = right.get(`${score[0]}.${score[1]}`), { by, low, high, separable } = difference(score, match);
    return [`${score[0]}.${score[1]}`, digits(score[3], 5), digits(match[3], 5), digits(by, 4), digits(low, 3), digits(high, 3), score[7], separable ? "yes" : ""];
  });
  const drawn = element("div", { class: "plots" });
  page.replaceChildren(element("p", {}, element("a", { href: "#checkpoints" }, "← all checkpoints")), element("h1", {}, "Two checkpoints"),
    element("div", { class: "pair" }, ...pair.map((card, side) => element("div", {}, element("a", { class: `which ${"ab"[side]}`, href: `#checkpoint=${[one, other][side]}` }, card.name), origin(card), recipe(card)))),
    element("h2", {}, "Scores"), tableOf(["score", "first", "second", "difference", "low", "high", "unit", "separable"], rows),
    element("p", { class: "note" }, "Second less first, with a 95 % interval that takes the two for independent. Scores on shared images vary together, so that differences are in truth sharper than this."),
    element("h2", {}, "Evidence"), drawn);
  drawPlots(pair.map((card, side) => [card, SIDE[side]]), drawn);
  document.title = `${pair[0].name} and ${pair[1].name}: ssa-analyze report`;
};

const route = async () => {
  const [what, wanted = ""] = location.hash.slice(1).split("=");
  const ids = wanted.split(",");
  hide();
  if ((what === "checkpoint" || what === "compare") && ids.length === (what === "compare" ? 2 : 1) && ids.every(id => payloads.has(id))) {
    overview.hidden = true;
    page.hidden = false;
    await (what === "checkpoint" ? showCard(ids[0]) : showPair(...ids));
    scrollTo(0, 0);
  } else {
    const away = overview.hidden;
    page.hidden = true;
    page.replaceChildren();
    overview.hidden = false;
    document.title = plainTitle;
    if (away && what) document.getElementById(what)?.scrollIntoView();
  }
  document.documentElement.dataset.ready = "yes";
};
addEventListener("hashchange", route);
route();

const pick = document.getElementById("pick");
pick?.addEventListener("submit", event => {
  event.preventDefault();
  const ids = [pick.first, pick.second].map(input => [input, byName.get(input.value)]);
  const wrong = ids.find(([, id]) => !id);
  if (wrong) { wrong[0].setCustomValidity("There is no such checkpoint."); wrong[0].reportValidity(); return; }
  location.hash = `#compare=${ids[0][1]},${ids[1][1]}`;
});
for (const input of pick?.querySelectorAll("input") ?? []) input.addEventListener("input", () => input.setCustomValidity(""));
