"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const stage = document.getElementById("stage");
const said = document.getElementById("said");
const TILE = 176; // px across, before the screen's own ratio
const ASKED = "#ff4fa3", SAME = "#ffffff", RIGHT = "#2fbf71", WRONG = "#e5484d";

let scene, images, tiles, asked, held;

function numbers(text, Kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

function unpack(row) {
  if (row.tokens) return row;
  row.at = numbers(row.at, Int32Array);
  row.xyz = numbers(row.xyz, Float32Array);
  for (const told of Object.values(row.treatments)) told.codes = numbers(told.codes, Int16Array);
  const cells = row.grid[0] * row.grid[1];
  row.tokens = row.xyz.length / 3;
  row.view = new Int32Array(row.tokens);
  row.cell = new Int32Array(row.tokens);
  row.at.forEach((token, place) => {
    if (token < 0) return;
    row.view[token] = Math.floor(place / cells);
    row.cell[token] = place % cells;
  });
  return row;
}

function tokenAt(row, view, x, y) {
  const [h, w] = row.grid;
  const cell = Math.min(h - 1, Math.floor(y * h)) * w + Math.min(w - 1, Math.floor(x * w));
  return row.at[view * h * w + cell];
}

function cosines(row, token, treatment) {
  const { codes, step } = row.treatments[treatment];
  const dims = codes.length / row.tokens, found = new Float64Array(row.tokens);
  for (let n = 0; n < row.tokens; n++) {
    let sum = 0;
    for (let d = 0; d < dims; d++) sum += codes[token * dims + d] * codes[n * dims + d];
    found[n] = sum * step * step;
  }
  return found;
}

function isSame(row, a, b) {
  const p = row.xyz;
  const x = p[3 * a] - p[3 * b], y = p[3 * a + 1] - p[3 * b + 1], z = p[3 * a + 2] - p[3 * b + 2];
  return x * x + y * y + z * z <= data.reach_m * data.reach_m;
}

function color(row, treatment, cosine) {
  const random = Math.min(row.treatments[treatment].random, 1 - 1e-6);
  const share = Math.min(1, Math.max(0, (cosine - random) / (1 - random)));
  return `rgb(${data.colours[Math.round(255 * share)].join(",")})`;
}

function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function views(count, kind = "") {
  return `${count} ${kind}${count === 1 ? "view" : "views"}`;
}

function mark(pen, row, cell, size, stroke, round) {
  const [h, w] = row.grid, dx = size[0] / w, dy = size[1] / h;
  const x = (cell % w) * dx, y = Math.floor(cell / w) * dy;
  for (const [color, width] of [["#000000", 4], [stroke, 2]]) {
    pen.strokeStyle = color;
    pen.lineWidth = width * devicePixelRatio;
    pen.beginPath();
    if (round) pen.ellipse(x + dx / 2, y + dy / 2, dx * 0.62, dy * 0.62, 0, 0, 2 * Math.PI);
    else pen.rect(x, y, dx, dy);
    pen.stroke();
  }
}

function clean(tile) {
  const pen = tile.getContext("2d"), size = [tile.width, tile.height];
  pen.globalAlpha = 1;
  pen.clearRect(0, 0, ...size);
  return [pen, size];
}

function paintRow(row, line) {
  const treatment = document.querySelector("input[name=treatment]:checked").value;
  const photos = document.getElementById("photos").checked;
  const token = tokenAt(row, asked.view, asked.x, asked.y);
  const like = token < 0 ? null : cosines(row, token, treatment);
  const [h, w] = row.grid;
  let seen = 0, right = 0;
  line.tiles.forEach((tile, view) => {
    const [pen, size] = clean(tile), [dx, dy] = [size[0] / w, size[1] / h];
    if (photos) pen.drawImage(images[view], 0, 0, ...size);
    if (!like) return;
    let best = -1, same = [];
    for (let n = 0; n < row.tokens; n++) {
      if (row.view[n] !== view) continue;
      pen.globalAlpha = photos ? 0.78 : 1;
      pen.fillStyle = color(row, treatment, like[n]);
      const col = row.cell[n] % w, line = Math.floor(row.cell[n] / w);
      const [x, y] = [Math.round(col * dx), Math.round(line * dy)]; // whole pixels leave no seam
      pen.fillRect(x, y, Math.round((col + 1) * dx) - x, Math.round((line + 1) * dy) - y);
      if (view === asked.view) continue;
      if (best < 0 || like[n] > like[best]) best = n;
      if (isSame(row, token, n)) same.push(n);
    }
    pen.globalAlpha = 1;
    for (const n of same) mark(pen, row, row.cell[n], size, SAME, false);
    if (view === asked.view) mark(pen, row, row.cell[token], size, ASKED, false);
    else if (best >= 0) {
      const isRight = same.includes(best);
      // Where no token is the same point, the most similar one is neither right nor wrong.
      if (same.length) { seen++; right += isRight; }
      mark(pen, row, row.cell[best], size, same.length ? (isRight ? RIGHT : WRONG) : "#c3cbd4", true);
    }
  });
  const told = row.treatments[treatment];
  line.note.textContent = token < 0
    ? "no position under the pointer"
    : seen ? `here: right in ${right} of ${views(seen)} that have one` : "here: no other view has one";
  line.all.textContent = row.asked
    ? `${percent(told.right)} of ${row.asked} right; the same place ${percent(row.same_place)}, a random token ${percent(row.chance)}`
    : `no token has another within ${data.reach_m} m`;
  return seen;
}

function paint() {
  const first = scene.rows[0], token = tokenAt(first, asked.view, asked.x, asked.y);
  tiles.photos.forEach((tile, view) => {
    const [pen, size] = clean(tile);
    pen.drawImage(images[view], 0, 0, ...size);
    if (token < 0) return;
    for (let n = 0; n < first.tokens; n++) {
      if (first.view[n] === view && view !== asked.view && isSame(first, token, n)) {
        mark(pen, first, first.cell[n], size, SAME, false);
      }
    }
    if (view === asked.view) mark(pen, first, first.cell[token], size, ASKED, false);
  });
  const seen = scene.rows.map((row, k) => paintRow(row, tiles.rows[k]));
  const place = token < 0
    ? "no position is known here"
    : "at " + [0, 1, 2].map((k) => first.xyz[3 * token + k].toFixed(2)).join(", ") + " m";
  said.textContent = `${held ? "Held: " : ""}view ${scene.views[asked.view]}, ${place}` +
    (token < 0 ? "." : `; a token lies within ${data.reach_m} m of it in ${seen[0]} of the ${views(scene.views.length - 1, "other ")}.`);
}

function point(tile, view, event) {
  const box = tile.getBoundingClientRect();
  const inside = (value) => Math.min(0.9999, Math.max(0, value));
  asked = {
    view,
    x: inside((event.clientX - box.left) / box.width),
    y: inside((event.clientY - box.top) / box.height),
  };
}

function makeTile(view) {
  const tile = document.createElement("canvas");
  tile.width = TILE * devicePixelRatio;
  tile.height = Math.round(tile.width / scene.aspect);
  tile.addEventListener("pointermove", (event) => {
    if (held || event.pointerType === "touch") return;
    point(tile, view, event);
    paint();
  });
  tile.addEventListener("click", (event) => {
    held = !held || event.pointerType === "touch";
    point(tile, view, event);
    paint();
  });
  stage.append(tile);
  return tile;
}

function makeHead(label, tap) {
  const head = document.createElement("div");
  head.className = "head";
  const name = document.createElement("b");
  name.textContent = label;
  head.append(name);
  const lines = [tap, "", ""].map((text, k) => {
    const line = document.createElement("div");
    line.className = k ? "" : "mono soft";
    line.textContent = text;
    head.append(line);
    return line;
  });
  stage.append(head);
  return lines;
}

function mostSeen(row) {
  const [h, w] = row.grid, middle = Math.floor(scene.views.length / 2);
  let best = 0, most = -Infinity;
  for (let n = 0; n < row.tokens; n++) {
    if (row.view[n] !== middle) continue;
    const views = new Set();
    for (let m = 0; m < row.tokens; m++) {
      if (row.view[m] !== middle && isSame(row, n, m)) views.add(row.view[m]);
    }
    const [x, y] = [(row.cell[n] % w) + 0.5 - w / 2, Math.floor(row.cell[n] / w) + 0.5 - h / 2];
    const worth = views.size - Math.hypot(x / w, y / h); // of those seen alike, the most central
    if (worth > most) [best, most] = [n, worth];
  }
  const cell = row.cell[best];
  return { view: row.view[best], x: ((cell % w) + 0.5) / w, y: (Math.floor(cell / w) + 0.5) / h };
}

async function show(index) {
  scene = data.scenes[index];
  scene.rows.forEach(unpack);
  images = await Promise.all(scene.pictures.map(async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    return image;
  }));
  stage.replaceChildren();
  stage.style.gridTemplateColumns = `minmax(110px, 190px) repeat(${scene.views.length}, minmax(84px, 260px))`;
  makeHead("views", "");
  tiles = { photos: scene.views.map((_, view) => makeTile(view)), rows: [] };
  for (const row of scene.rows) {
    const [, all, note] = makeHead(row.label, row.tap);
    tiles.rows.push({ all, note, tiles: scene.views.map((_, view) => makeTile(view)) });
  }
  held = false;
  asked = mostSeen(scene.rows[0]);
  paint();
}

stage.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { held = false; paint(); return; }
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const [h, w] = scene.rows[0].grid;
  asked.x = Math.min(1 - 0.5 / w, Math.max(0.5 / w, asked.x + step[0] / w));
  asked.y = Math.min(1 - 0.5 / h, Math.max(0.5 / h, asked.y + step[1] / h));
  held = true;
  paint();
});
document.getElementById("scene").addEventListener("change", (event) => show(Number(event.target.value)));
document.querySelectorAll("input[name=treatment], #photos").forEach((one) => one.addEventListener("change", paint));
document.getElementById("ramp").style.background =
  `linear-gradient(90deg, ${data.colours.filter((_, k) => k % 32 === 0).map((c) => `rgb(${c.join(",")})`).join(", ")})`;
show(0);
