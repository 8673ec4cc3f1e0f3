"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const number = (value) => (value === "inf" ? Infinity : value);
  const shown = (value, unit) => {
    if (value === null || value === undefined) return "–";
    if (value === "inf") return "∞";
    return value.toFixed(unit === "dB" ? 2 : 4);
  };

  // Summary and notes.
  const head = make("tr");
  data.summary.header.forEach((text) => { const th = make("th", text); th.scope = "col"; head.append(th); });
  const thead = make("thead");
  thead.append(head);
  const summary = make("tbody");
  for (const row of data.summary.rows) {
    const tr = make("tr", undefined, row.measured ? "measured" : "");
    row.cells.forEach((text) => tr.append(make("td", text)));
    summary.append(tr);
  }
  $("summary").append(thead, summary);
  data.summary.notes.forEach((text) => $("footnotes").append(make("p", text)));
  data.notes.forEach((text) => $("notes").append(make("li", text)));
  data.facts.forEach(([name, value]) => $("facts").append(make("dt", name), make("dd", value)));

  // The table of images: a column for each metric of each method.
  const fields = [];
  data.columns.forEach((column) => data.methods.forEach((method, index) => fields.push({ column, method, index })));
  const heading = make("tr");
  const titles = ["image", ...fields.map((f) => f.column.title + (f.column.higher ? " ↑" : " ↓"))];
  const sorts = titles.map((title, place) => {
    const th = make("th");
    th.scope = "col";
    const button = make("button", title);
    button.type = "button";
    if (place && data.methods.length > 1) {
      button.append(make("br"), make("span", fields[place - 1].method, "small"));
    }
    button.addEventListener("click", () => sort(place));
    th.append(button);
    heading.append(th);
    return th;
  });
  const top = make("thead");
  top.append(heading);
  const body = make("tbody");
  $("table").append(top, body);
  const rows = data.images.map((image) => {
    const tr = make("tr");
    const name = make("td", image.name);
    name.title = image.name;
    tr.append(name);
    fields.forEach(({ column, index }) => {
      const value = image.values[index][column.name];
      const td = make("td", shown(value, column.unit));
      const reason = image.failures[index][column.name] || image.failures[index].image;
      if (reason) { td.className = "failed"; td.title = reason; td.textContent = "failed"; }
      tr.append(td);
    });
    tr.addEventListener("click", () => select(row));
    const row = { image, tr };
    return row;
  });
  let order = rows.slice();
  let sorted = { place: 0, down: false };

  const key = (row, place) => {
    if (!place) return row.image.name;
    const { column, index } = fields[place - 1];
    const value = number(row.image.values[index][column.name]);
    return value === undefined ? null : value;
  };
  const sort = (place, down) => {
    if (down === undefined) down = sorted.place === place ? !sorted.down : place > 0 && !fields[place - 1].column.higher;
    sorted = { place, down };
    order = rows.slice().sort((one, other) => {
      const a = key(one, place), b = key(other, place);
      if (a === null || b === null) return (a === null ? 0 : 1) - (b === null ? 0 : 1); // failures first
      const less = place ? a - b || 0 : a < b ? -1 : a > b ? 1 : 0;
      return down ? -less : less;
    });
    sorts.forEach((th, at) => {
      if (at === place) th.setAttribute("aria-sort", down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    body.replaceChildren(...order.map((row) => row.tr));
  };
  const filter = () => {
    const text = $("filter").value.toLowerCase();
    let count = 0;
    rows.forEach((row) => {
      row.tr.hidden = !row.image.name.toLowerCase().includes(text);
      count += !row.tr.hidden;
    });
    $("count").textContent = text ? `${count} of ${rows.length} images` : `${rows.length} images`;
  };
  $("filter").addEventListener("input", filter);

  // The viewer.
  const state = { row: null, at: 50, zoom: 1, x: 0, y: 0, left: "Blurred", right: data.methods[data.methods.length - 1] };
  const stage = $("stage");
  const pictures = () => (state.row && state.row.image.view ? state.row.image.view.pictures : []);
  const fill = (select, chosen) => {
    const labels = pictures().map((picture) => picture.label);
    select.replaceChildren(...labels.map((label) => { const o = make("option", label); o.value = label; return o; }));
    if (labels.includes(chosen)) select.value = chosen;
    return labels.includes(chosen) ? chosen : labels[select.id === "left" ? 0 : labels.length - 1];
  };
  const show = () => {
    const view = state.row.image.view;
    const left = fill($("left"), state.left), right = fill($("right"), state.right);
    $("left").value = left || "";
    $("right").value = right || "";
    const find = (label) => pictures().find((picture) => picture.label === label);
    const detail = $("detail").checked && view && view.box;
    $("detail-label").hidden = !(view && view.box);
    const problems = view ? view.problems.join("\n") : "The pictures of this image are not on this page.";
    $("absent").textContent = view && pictures().length ? "" : problems || "There is no picture.";
    for (const [id, label] of [["over", left], ["under", right]]) {
      const picture = find(label);
      const img = $(id);
      img.hidden = !picture;
      if (picture) {
        img.src = detail ? picture.detail : picture.whole;
        img.alt = `${label}: ${state.row.image.name}`;
      }
    }
    $("tag-left").textContent = left || "";
    $("tag-right").textContent = right || "";
    $("tag-left").hidden = $("tag-right").hidden = !pictures().length;
    $("name").textContent = state.row.image.name;
    const values = fields.map(({ column, method, index }) =>
      `${data.methods.length > 1 ? method + " " : ""}${column.title} ${shown(state.row.image.values[index][column.name], column.unit)}`);
    const place = detail ? `window at ${view.box[0]}, ${view.box[1]}` : "";
    const failures = state.row.image.failures.flatMap((reasons) => Object.values(reasons));
    $("caption").textContent = [state.row.image.size, place, ...values, ...failures, view && pictures().length ? problems : ""]
      .filter(Boolean).join(" · ");
    place_pictures();
  };
  $("under").addEventListener("load", () => {
    const { naturalWidth: width, naturalHeight: height } = $("under");
    if (!width) return;
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.style.maxWidth = `calc(74vh * ${width / height})`;
    place_pictures();
  });
  const place_pictures = () => {
    const { clientWidth: width, clientHeight: height } = stage;
    state.x = Math.min(0, Math.max(width * (1 - state.zoom), state.x));
    state.y = Math.min(0, Math.max(height * (1 - state.zoom), state.y));
    for (const id of ["over", "under"]) {
      $(id).style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
      $(id).classList.toggle("blocks", width * state.zoom >= 3 * ($(id).naturalWidth || Infinity));
    }
    $("over-layer").style.clipPath = `inset(0 ${100 - state.at}% 0 0)`;
    $("divider").style.left = `${state.at}%`;
    $("scale").textContent = `${Math.round(state.zoom * 10) / 10}×`;
    stage.classList.toggle("moved", state.zoom > 1);
    if (Number($("slider").value) !== state.at) $("slider").value = state.at;
  };
  const divide = (at) => { state.at = Math.min(100, Math.max(0, at)); place_pictures(); };
  const zoom = (factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const next = Math.min(32, Math.max(1, state.zoom * factor));
    state.x = x - (x - state.x) * (next / state.zoom);
    state.y = y - (y - state.y) * (next / state.zoom);
    state.zoom = next;
    place_pictures();
  };
  const whole = () => { state.zoom = 1; state.x = state.y = 0; place_pictures(); };
  const select = (row, scroll) => {
    if (!row) return;
    if (state.row) state.row.tr.removeAttribute("aria-selected");
    state.row = row;
    row.tr.setAttribute("aria-selected", "true");
    if (scroll) row.tr.scrollIntoView({ block: "nearest" });
    whole();
    show();
  };
  const step = (by) => {
    const visible = order.filter((row) => !row.tr.hidden);
    const at = visible.indexOf(state.row);
    select(visible[Math.min(visible.length - 1, Math.max(0, at + by))], true);
  };
  const change = (side) => {
    const labels = pictures().map((picture) => picture.label);
    if (!labels.length) return;
    state[side] = labels[(labels.indexOf($(side).value) + 1) % labels.length];
    show();
  };
  $("slider").addEventListener("input", () => divide(Number($("slider").value)));
  $("left").addEventListener("change", () => { state.left = $("left").value; show(); });
  $("right").addEventListener("change", () => { state.right = $("right").value; show(); });
  $("detail").addEventListener("change", () => { whole(); show(); });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("smaller").addEventListener("click", () => zoom(1 / 1.5));
  $("larger").addEventListener("click", () => zoom(1.5));
  $("reset").addEventListener("click", whole);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    const box = stage.getBoundingClientRect();
    const near = Math.abs(event.clientX - box.left - (state.at / 100) * box.width) < 24;
    held = { x: event.clientX, y: event.clientY, pan: state.zoom > 1 && !near };
    if (!held.pan) divide(((event.clientX - box.left) / box.width) * 100);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) return;
    const box = stage.getBoundingClientRect();
    if (held.pan) {
      state.x += event.clientX - held.x;
      state.y += event.clientY - held.y;
      held.x = event.clientX;
      held.y = event.clientY;
      place_pictures();
    } else divide(((event.clientX - box.left) / box.width) * 100);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { held = null; });
  window.addEventListener("resize", place_pictures);

  // Histograms.
  const drawn = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const histogram = (column) => {
    const series = data.methods.map((_, index) => data.images.map((image) => number(image.values[index][column.name]))
      .filter((value) => Number.isFinite(value)));
    const all = series.flat();
    if (!all.length) return null;
    let low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
    if (low === high) { low -= 0.5; high += 0.5; }
    const bins = Math.min(24, Math.max(6, Math.ceil(Math.sqrt(all.length / series.length) * 2)));
    const counts = series.map((values) => {
      const found = new Array(bins).fill(0);
      values.forEach((value) => { found[Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins))] += 1; });
      return found;
    });
    const most = Math.max(...counts.flat());
    const width = 320, height = 150, floor = 124;
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of ${column.title}` });
    const each = (width - 20) / bins, bar = (each - 2) / series.length;
    counts.forEach((found, at) => found.forEach((count, bin) => {
      const tall = (count / most) * 104;
      const rect = drawn("rect", { x: 10 + bin * each + 1 + at * bar, y: floor - tall, width: Math.max(bar, .5), height: tall, class: `s${at % 5}` });
      const from = low + ((high - low) * bin) / bins, to = low + ((high - low) * (bin + 1)) / bins;
      const title = drawn("title", {});
      title.textContent = `${data.methods[at]}: ${count} from ${shown(from, column.unit)} to ${shown(to, column.unit)}`;
      rect.append(title);
      svg.append(rect);
    }));
    svg.append(drawn("line", { x1: 10, x2: width - 10, y1: floor, y2: floor, class: "axis" }));
    for (const [value, x, anchor] of [[low, 10, "start"], [(low + high) / 2, width / 2, "middle"], [high, width - 10, "end"]]) {
      const text = drawn("text", { x, y: floor + 16, "text-anchor": anchor });
      text.textContent = shown(value, column.unit);
      svg.append(text);
    }
    const figure = make("figure");
    figure.append(make("figcaption", column.title + (column.higher ? " ↑" : " ↓")), svg);
    if (data.methods.length > 1) {
      const legend = make("div", undefined, "legend");
      data.methods.forEach((method, at) => {
        const entry = make("span");
        entry.append(make("i", undefined, `s${at % 5}`), document.createTextNode(method));
        legend.append(entry);
      });
      figure.append(legend);
    }
    return figure;
  };
  $("histograms").append(...data.columns.map(histogram).filter(Boolean));

  // Theme, help, keys.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  };
  const help = () => { const dialog = $("help"); if (dialog.open) dialog.close(); else dialog.showModal(); };
  $("theme").addEventListener("click", theme);
  $("keys").addEventListener("click", help);
  $("close").addEventListener("click", () => $("help").close());
  const keys = {
    ArrowLeft: (event) => divide(state.at - (event.shiftKey ? 10 : 2)),
    ArrowRight: (event) => divide(state.at + (event.shiftKey ? 10 : 2)),
    n: () => step(1), p: () => step(-1), "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: whole,
    b: () => change("left"), r: () => change("right"), t: theme, "?": help,
    w: () => { if (!$("detail-label").hidden) { $("detail").checked = !$("detail").checked; whole(); show(); } },
    "/": () => $("filter").focus(),
  };
  document.addEventListener("keydown", (event) => {
    const within = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (within === "INPUT" && event.target.type === "search") { if (event.key === "Escape") event.target.blur(); return; }
    if (within === "SELECT" || ($("help").open && event.key !== "?")) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act(event);
  });

  const failed = data.images.filter((image) => image.failures.some((reasons) => Object.keys(reasons).length)).length;
  $("embedded").textContent = data.embedded < rows.length
    ? `Pictures of ${data.embedded} of the ${rows.length} images are on this page: the worst, the best, and some between.`
    : "";
  if (failed) $("embedded").textContent += ` ${failed} images failed in part or whole.`;
  // The worst come first: by the first metric of the last method.
  const start = fields.length ? data.methods.length : 0;
  sort(start, start ? !fields[start - 1].column.higher : false);
  filter();
  select(order.find((row) => row.image.view) || order[0]);
})();
