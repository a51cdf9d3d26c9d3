// The pages of the report: overview, list of scenes with filters, one scene. Data come as scripts: see report/table.py.
"use strict";
window.Report = (() => {
  const { histogram, plan } = window.ReportCharts;
  const PAGE = 50;
  const main = document.getElementById("main"), facts = document.getElementById("facts");
  let info = null;
  let viewer = null;
  const extremes = {}; // column -> {low, high}: per scene, over its people
  const store = { names: [], status: [], first: [], count: [], ids: [], personStatus: [], columns: {}, reason: new Map(),
    aside: new Map(), notes: new Map(), files: 0, chunks: [] };

  // ---------------------------------------------------------------------------------------------- small helpers

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  function text(value, digits) {
    return Number.isFinite(value) ? value.toFixed(digits) : "–";
  }

  // Names are data of others: controls and marks that turn the direction of text would show another name, nothing no link.
  const MARKS = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  function legible(name, most = 60) {
    const letters = Array.from(name.replace(MARKS, "\ufffd"));
    return (letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : letters.join("")) || "(no name)";
  }

  // A number as its column shows it: the name of its range, where the column has ranges.
  function spelt(value, column) {
    if (!column.groups.length || !Number.isFinite(value)) return text(value, column.digits);
    const at = column.groups.findIndex(([upper]) => value <= upper);
    return column.groups[at < 0 ? column.groups.length - 1 : at][1];
  }

  function plural(count, one, many) {
    return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
  }

  function route() {
    const [path, query] = location.hash.slice(1).split("?");
    return { path: path || "/", query: new URLSearchParams(query || "") };
  }

  function listHref(changes, base) {
    const query = new URLSearchParams(base || "");
    for (const [key, value] of Object.entries(changes)) value === "" || value === null ? query.delete(key) : query.set(key, value);
    return `#/scenes?${query}`;
  }

  function sceneHref(index, query) {
    const text = query ? String(query) : "";
    return `#/scene/${index}${text ? `?${text}` : ""}`;
  }

  function colour(i) {
    const [r, g, b] = info.palette[i % info.palette.length];
    return `rgb(${r},${g},${b})`;
  }

  function swatch(i) {
    const [r, g, b] = info.palette[i % info.palette.length];
    const ink = 0.299 * r + 0.587 * g + 0.114 * b > 120 ? "#000" : "#fff";
    return el("span", { class: "swatch", style: `background:rgb(${r},${g},${b});color:${ink}` }, String(i));
  }

  function badge(code) {
    return el("span", { class: code === 0 ? "status good" : "status" }, info.statuses[code]);
  }

  // ---------------------------------------------------------------------------------------------- data

  function load(source) {
    const script = el("script", { src: source });
    script.onerror = () => { facts.textContent = `${source} cannot be read: is the report complete?`; };
    document.body.append(script);
  }

  function summary(content) {
    info = content;
    document.title = info.title;
    if (info.files) load(fileOf(0)); else finish();
    show();
  }

  function fileOf(index) {
    return `data/scenes-${String(index).padStart(5, "0")}.js`;
  }

  function chunk(index, content) {
    store.chunks[index] = content;
    store.files += 1;
    if (store.files < info.files) load(fileOf(store.files)); else finish();
    const { path } = route();
    if (store.files % 10 === 0 && path === "/") progress();
  }

  // All files are there: columns become typed arrays over all people.
  function finish() {
    for (const column of info.columns) store.columns[column.key] = new Float64Array(info.people).fill(NaN);
    let scene = 0, person = 0;
    for (const content of store.chunks) {
      for (const [key, value] of Object.entries(content.reason)) store.reason.set(scene + Number(key), value);
      for (const [key, value] of Object.entries(content.aside)) store.aside.set(scene + Number(key), value);
      for (const [key, value] of Object.entries(content.notes)) store.notes.set(person + Number(key), value);
      for (const [key, values] of Object.entries(content.columns)) {
        values.forEach((value, i) => { if (value !== null) store.columns[key][person + i] = value; });
      }
      let at = person;
      content.people.forEach((count, i) => {
        store.names.push(content.name[i]);
        store.status.push(content.status[i]);
        store.first.push(at);
        store.count.push(count);
        at += count;
      });
      for (let i = 0; i < content.id.length; i++) {
        store.ids.push(content.id[i]);
        store.personStatus.push(content.person_status[i]);
      }
      scene += content.name.length;
      person = at;
    }
    store.chunks = [];
    store.ready = true;
    show();
  }

  // The smallest and the largest value among the people of each scene; NaN where nobody has one.
  function extreme(key) {
    if (!extremes[key]) {
      const values = store.columns[key];
      const low = new Float64Array(store.names.length).fill(NaN), high = low.slice();
      store.names.forEach((_, scene) => {
        for (let i = store.first[scene]; i < store.first[scene] + store.count[scene]; i++) {
          const value = values[i];
          if (Number.isNaN(value)) continue;
          if (!(low[scene] <= value)) low[scene] = value;
          if (!(high[scene] >= value)) high[scene] = value;
        }
      });
      extremes[key] = { low, high };
    }
    return extremes[key];
  }

  // Scenes that a query lets through, in its order.
  function select(query) {
    const wanted = (query.get("q") || "").toLowerCase(), state = query.get("status"), pictures = query.get("pictures");
    const people = bounds(query.get("people"));
    const ranges = info.columns.map((column) => [store.columns[column.key], bounds(query.get(column.key))]).filter((r) => r[1]);
    const status = state === null || state === "" ? null : info.statuses.indexOf(state);
    const out = [];
    store.names.forEach((name, scene) => {
      if (wanted && !name.toLowerCase().includes(wanted)) return;
      if (pictures && !info.pictures[scene]) return;
      const count = store.count[scene];
      if (people && !(count >= people[0] && count <= people[1])) return;
      if (status !== null || ranges.length) {
        let some = status !== null && !ranges.length && store.status[scene] === status;
        for (let i = store.first[scene]; !some && i < store.first[scene] + count; i++) {
          some = (status === null || store.personStatus[i] === status) &&
            ranges.every(([values, [low, high]]) => values[i] >= low && values[i] <= high);
        }
        if (!some) return;
      }
      out.push(scene);
    });
    const [key, down] = order(query);
    if (key === "name") out.sort((a, b) => (store.names[a] < store.names[b] ? -1 : 1));
    else if (key === "people") out.sort((a, b) => store.count[a] - store.count[b] || a - b);
    else if (store.columns[key]) {
      const values = down ? extreme(key).high : extreme(key).low;
      const nothing = down ? -Infinity : Infinity;
      const at = (scene) => (Number.isNaN(values[scene]) ? nothing : values[scene]);
      out.sort((a, b) => { const [x, y] = [at(a), at(b)]; return x === y ? (down ? b - a : a - b) : x < y ? -1 : 1; });
    }
    return down && key ? out.reverse() : out;
  }

  function order(query) {
    const sort = query.get("sort") || "";
    return [sort.replace(/^-/, ""), sort.startsWith("-")];
  }

  function bounds(value) {
    if (!value) return null;
    const [low, high] = value.split("..");
    return [low ? Number(low) : -Infinity, high ? Number(high) : Infinity];
  }

  // ---------------------------------------------------------------------------------------------- overview

  function progress() {
    facts.textContent = store.ready ? description() : `reading scenes, file ${store.files} of ${info.files} …`;
  }

  function description() {
    const parts = [plural(info.scenes, "scene", "scenes"), `${info.ok_people.toLocaleString("en")} of ` +
      `${plural(info.people, "person", "people")} fitted`];
    if (info.judged) parts.push(`${plural(info.judged, "scene", "scenes")} judged by truth ${info.truth}`);
    if (info.unfinished) parts.push(`${plural(info.unfinished, "scene is", "scenes are")} not fitted yet`);
    return parts.join(" · ");
  }

  function overview() {
    const charts = el("div", { class: "charts" }, ...info.charts.map((chart) => {
      const unit = chart.unit ? ` (${chart.unit})` : "";
      const people = chart.key === "people" ? plural(chart.known ?? 0, "scene", "scenes") : plural(chart.known, "person", "people");
      if (chart.bars) {
        const most = Math.max(1, ...chart.bars.map((bar) => bar.count));
        return el("section", { class: "card chart" }, el("h3", { title: chart.help }, chart.label + unit),
          el("div", { class: "bars" }, ...chart.bars.flatMap((bar) => [
            el("a", { href: listHref({ [chart.key]: `${bar.from ?? ""}..${bar.to ?? ""}` }) }, bar.name),
            el("span", { style: `width:${(100 * bar.count) / most}%` }), el("span", {}, bar.count.toLocaleString("en"))])),
          el("div", { class: "soft" }, people));
      }
      const middle = chart.median === null ? "" : `${people}; dashed: median ${chart.median}; mean ${chart.mean}`;
      const href = (from, to) => listHref({ [chart.key]: `${from}..${to}`, sort: chart.key === "people" ? "" : `-${chart.key}` });
      return el("section", { class: "card chart" }, el("h3", { title: chart.help }, chart.label + unit), histogram(chart, href),
        el("div", { class: "soft" }, middle));
    }));
    const bars = (what) => el("div", { class: "bars" }, ...info.failures.filter((row) => row.what === what).flatMap((row, _, all) => [
      info.statuses.includes(row.status) ? el("a", { href: listHref({ status: row.status }) }, row.status) : el("span", {}, row.status),
      el("span", { style: `width:${(100 * row.count) / all[0].count}%` }), el("span", {}, row.count.toLocaleString("en"))]));
    const worst = info.columns.find((column) => column.key === info.worst_by);
    const strip = (indices) => el("div", { class: "strip" }, ...indices.map((index) => tile(index)));
    main.replaceChildren(...[
      el("h2", {}, "Numbers"), charts,
      el("h2", {}, "What became of everybody"),
      el("div", { class: "charts" }, el("section", { class: "card" }, el("h3", {}, "People"), bars("people")),
        el("section", { class: "card" }, el("h3", {}, "Scenes"), bars("scenes"))),
      info.worst.length ? el("h2", {}, "Worst scenes", worst ? el("span", { class: "soft" }, ` by ${worst.label} (${worst.worse === "low" ? "lowest" : "highest"} of a scene) · `,
        el("a", { href: listHref({ sort: `${worst.worse === "low" ? "" : "-"}${worst.key}` }) }, "all of them")) : "") : null,
      info.worst.length ? strip(info.worst) : null,
      info.random.length ? el("h2", {}, "Scenes at random") : null,
      info.random.length ? strip(info.random) : null,
    ].filter(Boolean));
  }

  function tile(index) {
    if (!store.ready) return el("span", { class: "tile" }, el("div", {}, "…"));
    const worst = info.columns.find((column) => column.key === info.worst_by);
    const value = worst ? extreme(worst.key)[worst.worse === "low" ? "low" : "high"][index] : NaN;
    return el("a", { class: "tile", href: sceneHref(index) }, thumbnail(index),
      el("div", {}, legible(store.names[index]), el("div", { class: "soft" }, plural(store.count[index], "person", "people") +
        (Number.isFinite(value) ? ` · ${text(value, worst.digits)} ${worst.unit}` : ""))));
  }

  function folderOf(index) {
    return `scenes/${String(index).padStart(7, "0")}/`;
  }

  function thumbnail(index) {
    return info.pictures[index] ? el("img", { src: `${folderOf(index)}thumb.jpg`, loading: "lazy", alt: "", width: 320, height: 240 })
      : plan(positions(index), colour, true);
  }

  function positions(index) {
    const x = store.columns.x_m, z = store.columns.depth_m;
    if (!x || !z) return [];
    return Array.from({ length: store.count[index] }, (_, i) => ({ index: i, x: x[store.first[index] + i], z: z[store.first[index] + i] }));
  }

  // ---------------------------------------------------------------------------------------------- list

  function list(query) {
    const found = select(query), pages = Math.max(1, Math.ceil(found.length / PAGE));
    const page = Math.min(Math.max(1, Number(query.get("page")) || 1), pages);
    const shown = found.slice((page - 1) * PAGE, page * PAGE);
    const go = (changes) => { location.hash = listHref({ page: "", ...changes }, query).slice(1); };
    const [key, down] = order(query);
    const heading = (name, label, title) => el("th", { scope: "col", title, "aria-sort": key === name ? (down ? "descending" : "ascending") : null },
      el("button", { class: key === name ? "on" : null, onclick: () => go({ sort: key === name && down ? name : `-${name}` }) },
        label + (key === name ? (down ? " ↓" : " ↑") : "")));
    const rows = shown.map((scene) => el("tr", {},
      el("td", {}, el("a", { href: sceneHref(scene, query) }, thumbnail(scene), legible(store.names[scene]))),
      el("td", {}, String(store.count[scene])),
      el("td", {}, badge(store.status[scene])),
      ...info.columns.map((column) => {
        const { low, high } = extreme(column.key), [a, b] = [spelt(low[scene], column), spelt(high[scene], column)];
        return el("td", {}, a === b ? a : `${a} … ${b}`);
      })));
    const table = el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, heading("name", "Scene"), heading("people", "People"), el("th", { scope: "col" }, "Status"),
        ...info.columns.map((column) => heading(column.key, column.unit ? `${column.label} (${column.unit})` : column.label, column.help)))),
      el("tbody", {}, ...rows)));
    const pager = () => el("div", { class: "row" },
      el("button", { disabled: page <= 1, onclick: () => go({ page: page - 1 }) }, "Previous"),
      el("span", { class: "soft" }, `page ${page} of ${pages}`),
      el("button", { disabled: page >= pages, onclick: () => go({ page: page + 1 }) }, "Next"));
    main.replaceChildren(filters(query, go), el("p", { class: "soft", role: "status", id: "found" },
      `${plural(found.length, "scene", "scenes")}; a cell holds the smallest and the largest value of the scene's people`),
    table, pages > 1 ? pager() : "");
  }

  function filters(query, go) {
    const active = info.columns.filter((column) => query.get(column.key));
    const number = (column, end) => {
      const current = bounds(query.get(column.key)) || [-Infinity, Infinity];
      const value = current[end === "low" ? 0 : 1];
      return el("input", { type: "number", step: "any", value: Number.isFinite(value) ? value : null, "aria-label": `${column.label} ${end}`,
        onchange: (event) => {
          const ends = current.map((x) => (Number.isFinite(x) ? String(x) : ""));
          ends[end === "low" ? 0 : 1] = event.target.value;
          go({ [column.key]: ends[0] || ends[1] ? ends.join("..") : "" });
        } });
    };
    const unused = info.columns.filter((column) => !query.get(column.key));
    return el("div", { class: "card filters", style: "margin-top:20px" },
      el("label", {}, "Name holds", el("input", { type: "search", id: "search", value: query.get("q") || "", onchange: (event) => go({ q: event.target.value }) })),
      el("label", {}, "Status of a person or scene", el("select", { onchange: (event) => go({ status: event.target.value }) },
        el("option", { value: "" }, "any"), ...info.statuses.map((name) => el("option", { value: name, selected: query.get("status") === name }, name)))),
      el("label", {}, "Pictures", el("select", { onchange: (event) => go({ pictures: event.target.value }) },
        el("option", { value: "" }, "with or without"), el("option", { value: "1", selected: !!query.get("pictures") }, "with"))),
      ...active.map((column) => el("label", {}, `${column.label} ${column.unit ? `(${column.unit})` : ""}`, el("span", {}, number(column, "low"), " to ",
        number(column, "high"), " ", el("button", { title: "Remove this filter", onclick: () => go({ [column.key]: "" }) }, "×")))),
      unused.length ? el("label", {}, "Add a range", el("select", { onchange: (event) => go({ [event.target.value]: ".." }) },
        el("option", { value: "" }, "of …"), ...unused.map((column) => el("option", { value: column.key }, column.label)))) : null,
      query.get("people") ? el("button", { onclick: () => go({ people: "" }) }, `people ${query.get("people")} ×`) : null,
      [...query.keys()].length ? el("button", { onclick: () => { location.hash = "#/scenes"; } }, "Clear") : null);
  }

  // ---------------------------------------------------------------------------------------------- one scene

  function scene(index, query) {
    if (!(index >= 0 && index < store.names.length)) {
      main.replaceChildren(el("p", {}, "There is no such scene."));
      return;
    }
    const found = select(query), at = found.indexOf(index);
    const step = (move, label) => {
      const target = at < 0 ? undefined : found[at + move];
      return el("button", { disabled: target === undefined, onclick: () => { location.hash = sceneHref(target, query).slice(1); } }, label);
    };
    const first = store.first[index], count = store.count[index];
    const known = info.columns.filter((column) => {
      for (let i = first; i < first + count; i++) if (Number.isFinite(store.columns[column.key][i])) return true;
      return false;
    });
    const rows = Array.from({ length: count }, (_, i) => el("tr", {},
      el("td", {}, swatch(i), legible(store.ids[first + i])), el("td", {}, badge(store.personStatus[first + i])),
      ...known.map((column) => el("td", {}, spelt(store.columns[column.key][first + i], column))),
      el("td", { class: "text soft" }, store.notes.get(first + i) || "")));
    const table = el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Person"), el("th", { scope: "col" }, "Status"),
        ...known.map((column) => el("th", { scope: "col", title: column.help }, column.unit ? `${column.label} (${column.unit})` : column.label)),
        el("th", { scope: "col" }, "Notes"))),
      el("tbody", {}, ...rows)));
    const aside = store.aside.get(index);
    const pictures = info.pictures[index];
    main.replaceChildren(...[
      el("div", { class: "row" }, el("h2", { style: "margin:0;overflow-wrap:anywhere" }, legible(store.names[index], 1000)), badge(store.status[index]),
        el("span", { class: "soft" }, store.reason.get(index) || ""), el("span", { class: "gap" }),
        el("a", { href: listHref({}, query) }, at < 0 ? "all scenes" : `${at + 1} of ${found.length}`), step(-1, "Previous"), step(1, "Next")),
      pictures ? gallery(index, pictures) : plainView(index),
      table,
      aside ? el("p", { class: "soft" }, "Set aside by the reader: ", aside.map(([id, reason]) => `${id}: ${reason}`).join("; ")) : null,
    ].filter(Boolean));
    if (pictures && pictures.includes("model.js")) load(`${folderOf(index)}model.js`);
  }

  function plainView(index) {
    return el("div", { class: "pictures" }, el("figure", { class: "card" }, plan(positions(index), colour, false),
      el("figcaption", {}, "From above, metres; no pictures were drawn of this scene (experiments.report --pictures)")));
  }

  function gallery(index, pictures) {
    const folder = folderOf(index);
    const captions = { "overlay.jpg": "Fitted bodies", "start.jpg": "Where the fit started", "photo.jpg": "Photo",
      "keypoints.jpg": "Keypoints: dots observed, lines projected from the fit", "top.png": "From above, metres",
      "side.png": "From the camera's right, metres",
      "parts.jpg": "Hands, faces and feet that were fitted to points of their own: photo, and fit over it" };
    const figure = (name) => el("figure", {}, el("a", { href: folder + name }, el("img", { src: folder + name, loading: "lazy",
      alt: captions[name] })), el("figcaption", {}, captions[name]));
    const shown = ["overlay.jpg", "start.jpg", "photo.jpg", "keypoints.jpg", "parts.jpg", "top.png", "side.png"].filter((name) => pictures.includes(name));
    const three = pictures.includes("model.js") ? el("figure", { id: "three" }, el("p", { class: "soft" }, "3D view: reading …")) : null;
    return el("div", { class: "pictures" }, ...[figure(shown[0]), three, ...shown.slice(1).map(figure)].filter(Boolean));
  }

  // Called by a scene's model.js.
  function model(name, content) {
    const place = document.getElementById("three"), { path } = route();
    const index = Number(path.split("/")[2]);
    if (!place || store.names[index] !== name) return; // another scene is on the page by now
    const photo = info.pictures[index].includes("photo.jpg") ? `${folderOf(index)}photo.jpg` : "";
    viewer = window.ReportViewer.open(place, content, { photo, file: `${name}.glb` });
  }

  // ---------------------------------------------------------------------------------------------- which page

  function show() {
    if (!info) return;
    if (viewer) viewer.close();
    viewer = null;
    const { path, query } = route();
    for (const link of document.querySelectorAll("nav a")) {
      link.classList.toggle("here", (link.dataset.view === "overview") === (path === "/"));
    }
    progress();
    if (path === "/") overview();
    else if (!store.ready) main.replaceChildren(el("p", { class: "soft" }, "Reading the scenes …"));
    else if (path.startsWith("/scene/")) scene(Number(path.split("/")[2]), query);
    else list(query);
  }

  window.addEventListener("hashchange", () => { show(); window.scrollTo(0, 0); });
  return { summary, chunk, model };
})();
