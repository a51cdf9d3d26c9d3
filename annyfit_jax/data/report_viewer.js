// A small WebGL viewer of binary glTF: coloured triangle meshes, one per person, a ground grid and the camera's pyramid.
// Reads what annyfit_jax/exports/scene_files.py writes: Y up, camera at the origin looking along -Z, K in the scene's extras.
"use strict";
window.ReportViewer = (() => {
  const VERTEX = `attribute vec3 position, normal; uniform mat4 projection, view; varying vec3 n, p;
    void main() { n = mat3(view[0].xyz, view[1].xyz, view[2].xyz) * normal; vec4 q = view * vec4(position, 1.0); p = q.xyz; gl_Position = projection * q; }`;
  const FRAGMENT = `precision mediump float; uniform vec3 colour; uniform float flat_; varying vec3 n, p;
    void main() { vec3 m = normalize(n); if (dot(m, p) > 0.0) m = -m;
      float lit = 0.42 + 0.5 * max(dot(m, normalize(vec3(-0.35, 0.7, 0.75))), 0.0) + 0.18 * abs(dot(m, normalize(p)));
      gl_FragColor = vec4(colour * mix(lit, 1.0, flat_), 1.0); }`;
  const SIZES = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4, MAT4: 16 };
  const ARRAYS = { 5121: Uint8Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
  const IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];

  // ---------------------------------------------------------------------------------------------- glTF

  function bytesOf(base64) {
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  // {people: [{name, facts, colour, positions, normals, indices}], K, size} of a .glb; throws on anything else.
  function parse(bytes) {
    const view = new DataView(bytes.buffer);
    if (view.getUint32(0, true) !== 0x46546c67) throw new Error("not a binary glTF");
    const length = view.getUint32(12, true);
    const tree = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + length)));
    const start = 20 + length + 8;
    const array = (index) => {
      const accessor = tree.accessors[index], part = tree.bufferViews[accessor.bufferView];
      const kind = ARRAYS[accessor.componentType], count = accessor.count * SIZES[accessor.type];
      const from = start + (part.byteOffset || 0) + (accessor.byteOffset || 0);
      return new kind(bytes.buffer.slice(from, from + count * kind.BYTES_PER_ELEMENT));
    };
    const people = [];
    const walk = (index, parent) => {
      const node = tree.nodes[index], world = multiply(parent, node.matrix || IDENTITY);
      if (node.mesh !== undefined) {
        const mesh = tree.meshes[node.mesh], part = mesh.primitives[0], positions = array(part.attributes.POSITION);
        for (let i = 0; i < positions.length; i += 3) positions.set(move(world, positions.subarray(i, i + 3)), i);
        const colours = part.attributes.COLOR_0 === undefined ? [170, 170, 170] : array(part.attributes.COLOR_0);
        const indices = array(part.indices);
        people.push({ name: node.name || mesh.name || "", colour: [colours[0] / 255, colours[1] / 255, colours[2] / 255], positions,
          indices, normals: normalsOf(positions, indices) });
      }
      for (const child of node.children || []) walk(child, world);
    };
    const scene = tree.scenes[tree.scene || 0];
    for (const root of scene.nodes) walk(root, IDENTITY);
    const extras = scene.extras || {};
    return { people, K: extras.K, size: extras.image_size || [4, 3] };
  }

  function normalsOf(positions, indices) {
    const out = new Float32Array(positions.length);
    for (let i = 0; i < indices.length; i += 3) {
      const [a, b, c] = [3 * indices[i], 3 * indices[i + 1], 3 * indices[i + 2]];
      const u = [0, 1, 2].map((k) => positions[b + k] - positions[a + k]), v = [0, 1, 2].map((k) => positions[c + k] - positions[a + k]);
      const n = cross(u, v);
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) out[corner + k] += n[k];
    }
    return out;
  }

  // ---------------------------------------------------------------------------------------------- vectors, 4 x 4 by columns

  function cross(u, v) {
    return [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  }

  function unit(v) {
    const size = Math.hypot(...v) || 1;
    return v.map((x) => x / size);
  }

  function multiply(a, b) {
    const out = new Array(16).fill(0);
    for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) for (let k = 0; k < 4; k++) out[4 * j + i] += a[4 * k + i] * b[4 * j + k];
    return out;
  }

  function move(m, p) {
    return [0, 1, 2].map((i) => m[i] * p[0] + m[4 + i] * p[1] + m[8 + i] * p[2] + m[12 + i]);
  }

  function lookAt(eye, target, up) {
    const back = unit(eye.map((x, i) => x - target[i])), right = unit(cross(up, back)), top = cross(back, right);
    const dot = (v) => -(v[0] * eye[0] + v[1] * eye[1] + v[2] * eye[2]);
    return [right[0], top[0], back[0], 0, right[1], top[1], back[1], 0, right[2], top[2], back[2], 0, dot(right), dot(top), dot(back), 1];
  }

  function perspective(tangent, aspect, near, far) {
    const depth = near - far;
    return [1 / (tangent * aspect), 0, 0, 0, 0, 1 / tangent, 0, 0, 0, 0, (far + near) / depth, -1, 0, 0, (2 * far * near) / depth, 0];
  }

  // The pinhole K of a (width, height) picture: pixels (0, 0) .. (width, height) fill the view.
  function pinhole(K, size, near, far) {
    const [w, h] = size, depth = near - far;
    return [(2 * K[0][0]) / w, 0, 0, 0, (-2 * K[0][1]) / w, (2 * K[1][1]) / h, 0, 0, 1 - (2 * K[0][2]) / w, (2 * K[1][2]) / h - 1,
      (far + near) / depth, -1, 0, 0, (2 * far * near) / depth, 0];
  }

  // ---------------------------------------------------------------------------------------------- the view

  function button(label, title, action) {
    const node = document.createElement("button");
    node.textContent = label;
    node.title = title;
    node.addEventListener("click", action);
    return node;
  }

  function open(place, base64, options) {
    const bytes = bytesOf(base64), scene = parse(bytes);
    const box = document.createElement("div"), canvas = document.createElement("canvas"), row = document.createElement("div");
    const caption = document.createElement("figcaption");
    box.className = "viewer";
    row.className = "row";
    box.style.aspectRatio = `${scene.size[0]} / ${scene.size[1]}`;
    box.style.maxWidth = `calc(75vh * ${scene.size[0] / scene.size[1]})`;
    canvas.tabIndex = 0;
    canvas.setAttribute("aria-label", "3D view of the fitted people");
    box.append(canvas);
    place.replaceChildren(box, row, caption);
    caption.textContent = "3D: drag to turn, shift or right button to move, wheel to zoom, arrow keys; grid of 1 m";
    const gl = canvas.getContext("webgl", { antialias: true, alpha: true, premultipliedAlpha: false });
    if (!gl) {
      const message = document.createElement("p");
      message.textContent = "This browser offers no WebGL.";
      box.append(message);
      return { close() {} };
    }
    const hidden = new Set(), drawing = prepare(gl, scene);
    const state = startOf(scene);
    let scheduled = false, closed = false;

    function draw() {
      scheduled = false;
      if (closed) return;
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      gl.viewport(0, 0, width, height);
      box.style.backgroundImage = state.camera && options.photo ? `url("${options.photo}")` : "none";
      drawing(matrices(state, scene, width / height), hidden, state.camera && options.photo);
    }
    function again() {
      if (!scheduled) { scheduled = true; requestAnimationFrame(draw); }
    }
    function set(changes) {
      Object.assign(state, changes);
      for (const [node, name] of views) node.classList.toggle("on", state.view === name);
      again();
    }
    const views = ["camera", "around", "above", "side"].map((name) => [
      button({ camera: "Camera", around: "Around", above: "Above", side: "Side" }[name], `View: ${name}`, () => set(preset(name, scene))), name]);
    row.append(...views.map(([node]) => node));
    scene.people.forEach((person, i) => {
      const label = person.name.replace(/^person_/, "");
      const node = button(label, `Show or hide person ${label}`, () => {
        hidden.has(i) ? hidden.delete(i) : hidden.add(i);
        node.style.opacity = hidden.has(i) ? 0.35 : 1;
        again();
      });
      node.style.borderLeft = `10px solid rgb(${person.colour.map((x) => Math.round(255 * x)).join(",")})`;
      row.append(node);
    });
    const save = document.createElement("a");
    save.textContent = ".glb";
    save.title = "Save the 3D model";
    save.download = options.file;
    save.href = URL.createObjectURL(new Blob([bytes], { type: "model/gltf-binary" }));
    row.append(save);
    steer(canvas, state, set);
    const observer = new ResizeObserver(again);
    observer.observe(canvas);
    set(preset("around", scene));
    return {
      close() {
        closed = true;
        observer.disconnect();
        URL.revokeObjectURL(save.href);
        const lose = gl.getExtension("WEBGL_lose_context");
        if (lose) lose.loseContext();
      },
    };
  }

  function startOf(scene) {
    return { camera: false, view: "", target: middle(scene), yaw: 0, pitch: 0.2, distance: 4 };
  }

  function middle(scene) {
    const box = extent(scene);
    return [0, 1, 2].map((k) => 0.5 * (box.low[k] + box.high[k]));
  }

  function extent(scene) {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (const person of scene.people) {
      person.positions.forEach((x, i) => { low[i % 3] = Math.min(low[i % 3], x); high[i % 3] = Math.max(high[i % 3], x); });
    }
    return { low, high };
  }

  function preset(name, scene) {
    const { low, high } = extent(scene), size = Math.hypot(...high.map((x, k) => x - low[k]));
    const base = { view: name, camera: name === "camera" && !!scene.K, target: middle(scene), distance: 1.25 * size + 0.4 };
    return { ...base, ...{ camera: { yaw: 0, pitch: 0 }, around: { yaw: 0.6, pitch: 0.3 }, above: { yaw: 0, pitch: 1.55 },
      side: { yaw: Math.PI / 2, pitch: 0 } }[name] };
  }

  function matrices(state, scene, aspect) {
    const far = 20 * state.distance + 100;
    if (state.camera) return { projection: pinhole(scene.K, scene.size, 0.05, far), view: IDENTITY };
    const level = Math.cos(state.pitch);
    const from = [level * Math.sin(state.yaw), Math.sin(state.pitch), level * Math.cos(state.yaw)];
    const eye = state.target.map((x, k) => x + state.distance * from[k]);
    const tangent = Math.tan(0.42) * (aspect < 1 ? 1 / aspect : 1);
    return { projection: perspective(tangent, aspect, state.distance / 200, far), view: lookAt(eye, state.target, [0, 1, 0]) };
  }

  // Mouse, touch and keys. Any of them leaves the camera's own view for the view around the people.
  function steer(canvas, state, set) {
    const pointers = new Map();
    const free = () => ({ camera: false, view: "" });
    const turn = (dx, dy) => set({ ...free(), yaw: state.yaw - 0.008 * dx, pitch: Math.max(-1.55, Math.min(1.55, state.pitch + 0.008 * dy)) });
    const zoom = (factor) => set({ ...free(), distance: Math.max(0.3, Math.min(500, state.distance * factor)) });
    const pan = (dx, dy) => {
      const step = (1.6 * state.distance * Math.tan(0.42)) / Math.max(canvas.clientHeight, 1);
      const right = [Math.cos(state.yaw), 0, -Math.sin(state.yaw)];
      set({ ...free(), target: state.target.map((x, k) => x - step * dx * right[k] + (k === 1 ? step * dy : 0)) });
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        zoom(gap(before) / gap([event.clientX, event.clientY]));
        pan(dx / 2, dy / 2);
      } else if (event.shiftKey || event.buttons === 2) pan(dx, dy);
      else turn(dx, dy);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(0.0012 * event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const actions = { ArrowLeft: () => turn(20, 0), ArrowRight: () => turn(-20, 0), ArrowUp: () => turn(0, 20), ArrowDown: () => turn(0, -20),
        "+": () => zoom(0.87), "-": () => zoom(1.15) };
      if (!actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  // ---------------------------------------------------------------------------------------------- WebGL

  function compile(gl) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "position");
    gl.bindAttribLocation(program, 1, "normal");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    return program;
  }

  function prepare(gl, scene) {
    const program = compile(gl), at = (name) => gl.getUniformLocation(program, name);
    const where = { projection: at("projection"), view: at("view"), colour: at("colour"), flat: at("flat_") };
    const wide = gl.getExtension("OES_element_index_uint");
    const buffer = (kind, data) => {
      const out = gl.createBuffer();
      gl.bindBuffer(kind, out);
      gl.bufferData(kind, data, gl.STATIC_DRAW);
      return out;
    };
    const people = scene.people.map((person) => {
      const small = person.positions.length / 3 <= 65535;
      if (!small && !wide) throw new Error("meshes of more than 65535 vertices need OES_element_index_uint");
      const indices = small ? new Uint16Array(person.indices) : person.indices;
      return { colour: person.colour, count: indices.length, kind: small ? gl.UNSIGNED_SHORT : gl.UNSIGNED_INT,
        positions: buffer(gl.ARRAY_BUFFER, person.positions), normals: buffer(gl.ARRAY_BUFFER, person.normals),
        indices: buffer(gl.ELEMENT_ARRAY_BUFFER, indices) };
    });
    const lines = [[gridOf(scene), [0.72, 0.75, 0.78]], [pyramidOf(scene), [0.2, 0.42, 0.7]]].map(([points, colour]) => (
      { points: buffer(gl.ARRAY_BUFFER, new Float32Array(points)), count: points.length / 3, colour }));
    return ({ projection, view }, hidden, bodiesOnly) => {
      gl.enable(gl.DEPTH_TEST);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.useProgram(program);
      gl.uniformMatrix4fv(where.projection, false, projection);
      gl.uniformMatrix4fv(where.view, false, view);
      gl.enableVertexAttribArray(0);
      gl.uniform1f(where.flat, 0);
      gl.enableVertexAttribArray(1);
      people.forEach((person, i) => {
        if (hidden.has(i)) return;
        gl.bindBuffer(gl.ARRAY_BUFFER, person.positions);
        gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
        gl.bindBuffer(gl.ARRAY_BUFFER, person.normals);
        gl.vertexAttribPointer(1, 3, gl.FLOAT, false, 0, 0);
        gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, person.indices);
        gl.uniform3fv(where.colour, person.colour);
        gl.drawElements(gl.TRIANGLES, person.count, person.kind, 0);
      });
      if (bodiesOnly) return;
      gl.disableVertexAttribArray(1);
      gl.vertexAttrib3f(1, 0, 1, 0);
      gl.uniform1f(where.flat, 1);
      for (const line of lines) {
        gl.bindBuffer(gl.ARRAY_BUFFER, line.points);
        gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
        gl.uniform3fv(where.colour, line.colour);
        gl.drawArrays(gl.LINES, 0, line.count);
      }
    };
  }

  // Lines of a 1 m grid at the lowest vertex, from the camera to beyond the people.
  function gridOf(scene) {
    const { low, high } = extent(scene), out = [];
    const step = high[0] - low[0] + high[2] - low[2] > 200 ? 10 : 1, snap = (x, up) => step * (up ? Math.ceil(x / step) : Math.floor(x / step));
    const [x0, x1] = [snap(Math.min(low[0], 0) - 1), snap(Math.max(high[0], 0) + 1, true)];
    const [z0, z1] = [snap(low[2] - 1), snap(Math.max(high[2], 0) + 0.5, true)];
    for (let x = x0; x <= x1; x += step) out.push(x, low[1], z0, x, low[1], z1);
    for (let z = z0; z <= z1; z += step) out.push(x0, low[1], z, x1, low[1], z);
    return out;
  }

  // Edges of the camera's pyramid up to half a metre.
  function pyramidOf(scene) {
    if (!scene.K) return [];
    const [w, h] = scene.size, K = scene.K, d = 0.5;
    const corners = [[0, 0], [w, 0], [w, h], [0, h]].map(([u, v]) => [(d * (u - K[0][2])) / K[0][0], (-d * (v - K[1][2])) / K[1][1], -d]);
    return corners.flatMap((corner, i) => [0, 0, 0, ...corner, ...corner, ...corners[(i + 1) % 4]]);
  }

  return { open, parse, bytesOf };
})();
