// Charts of the report as SVG elements, from edges and counts. No dependencies.
"use strict";
window.ReportCharts = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const WIDTH = 300, HEIGHT = 150, LEFT = 6, RIGHT = 6, TOP = 16, BOTTOM = 22;

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // Short text of an axis number.
  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e4) return value.toExponential(0);
    return String(Number(value.toPrecision(3)));
  }

  // Bars over edges; each bar is a link to what href(low, high) gives, open towards the end at the outermost bars.
  function histogram(chart, href) {
    const { edges, counts } = chart;
    const most = Math.max(1, ...counts), last = counts.length - 1;
    const low = edges[0], span = edges[edges.length - 1] - low || 1;
    const x = (value) => LEFT + ((value - low) / span) * (WIDTH - LEFT - RIGHT);
    const ground = HEIGHT - BOTTOM;
    const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${chart.label}: histogram` });
    root.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: ground, y2: ground }));
    // The scale of the counts: a line at the height of the longest bar, with its number.
    root.append(svg("line", { class: "scale", x1: LEFT, x2: WIDTH - RIGHT, y1: TOP, y2: TOP }),
      svg("text", { x: WIDTH - RIGHT, y: TOP - 3, "text-anchor": "end" }, most.toLocaleString("en")));
    counts.forEach((count, i) => {
      const height = ((ground - TOP) * count) / most;
      const from = i === 0 ? "" : edges[i], to = i === last ? "" : edges[i + 1];
      const bar = svg("rect", {
        x: x(edges[i]) + 0.5, y: ground - Math.max(height, count ? 1 : 0),
        width: Math.max(x(edges[i + 1]) - x(edges[i]) - 1, 0.5), height: Math.max(height, count ? 1 : 0),
      });
      const target = svg("rect", {
        x: x(edges[i]), y: TOP, width: Math.max(x(edges[i + 1]) - x(edges[i]), 1), height: ground - TOP, "fill-opacity": 0,
      });
      const title = svg("title", {}, `${from === "" ? "below" : short(edges[i])} – ${to === "" ? "above" : short(edges[i + 1])}` +
        ` ${chart.unit}: ${count}`);
      const link = svg("a", { href: href(from, to), "aria-label": title.textContent }, title, bar, target);
      root.append(count ? link : svg("g", {}, title, bar));
    });
    if (chart.median !== null && chart.median >= low && chart.median <= low + span) {
      root.append(svg("line", { class: "median", x1: x(chart.median), x2: x(chart.median), y1: TOP, y2: ground }));
    }
    const step = Math.max(1, Math.ceil(edges.length / 6));
    for (let i = 0; i < edges.length; i += step) {
      const anchor = i === 0 ? "start" : i + step >= edges.length && i === edges.length - 1 ? "end" : "middle";
      root.append(svg("text", { x: x(edges[i]), y: HEIGHT - 6, "text-anchor": anchor }, short(edges[i])));
    }
    return root;
  }

  // People from above: x to the right, depth upwards, the camera below; numbered discs.
  function plan(points, colours, small) {
    const known = points.filter((p) => Number.isFinite(p.x) && Number.isFinite(p.z));
    const width = 360, height = 270, margin = small ? 14 : 26;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: small ? "plan small" : "plan", role: "img",
      "aria-label": "People from above" });
    const far = Math.max(1, ...known.map((p) => p.z)), side = Math.max(0.5, ...known.map((p) => Math.abs(p.x)));
    const scale = Math.min((height - 2 * margin) / far, (width - 2 * margin) / (2 * side));
    const px = (p) => [width / 2 + scale * p.x, height - margin - scale * p.z];
    const step = far > 20 ? 5 : far > 8 ? 2 : 1;
    for (let z = 0; z <= far + step && !small; z += step) {
      const y = height - margin - scale * z;
      if (y < 4) break;
      root.append(svg("line", { x1: 0, x2: width, y1: y, y2: y }), svg("text", { x: 14, y: y - 3 }, `${z} m`));
    }
    root.append(svg("path", { d: `M${width / 2} ${height - margin}l-7 12h14z`, fill: "#778" }));
    for (const p of known) {
      const [x, y] = px(p);
      root.append(svg("circle", { cx: x, cy: y, r: small ? 14 : 10, fill: colours(p.index), stroke: "#fff", "stroke-width": 1.5 }));
      if (!small) root.append(svg("text", { x, y: y + 4, style: "fill:#111;font-weight:600" }, String(p.index)));
    }
    return root;
  }

  return { histogram, plan, short, svg };
})();
