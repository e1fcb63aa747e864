// The viewer's page: one run on a map, from a server (tileseg view) or as files (tileseg view --export).
import * as maplibre from "./maplibre-gl.mjs";
import { Audit } from "./audit.js";
import { area, ask, attributes, later, make, number, one, Patient, PixelScale, problem, send } from "./parts.js";

const protocol = new pmtiles.Protocol();
maplibre.addProtocol("pmtiles", protocol.tile);
const here = new URL(".", location.href).href;
const index = await ask("view.json");
const params = () => new URLSearchParams(location.hash.slice(1));
const linked = params().has("map");
const state = { run: 0, facts: null, known: {}, hidden: new Set(), thresholds: {}, version: 0, on: {}, opacity: {} };
const map = new maplibre.Map({
  container: "map", hash: "map", style: { version: 8, sources: {}, layers: [] }, renderWorldCopies: false,
  maxZoom: 24, maxPitch: 0, dragRotate: false, attributionControl: false, fadeDuration: 0,
});
window.viewer = { map, state };
map.touchZoomRotate.disableRotation();
map.keyboard.disableRotation();
map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
map.addControl(new maplibre.FullscreenControl({ container: document.body }), "top-right");
map.on("error", (event) => event.error && problem(event.error.message));
const audit = new Audit(map, select);
let scale = null;
let bare = null;

const base = () => `runs/${state.run}`;
const classOf = (id) => state.facts.classes.find((each) => each.id === id);

function archive(name) {
  const url = `${here}${base()}/${name}`;
  if (!protocol.get(url)) protocol.add(new pmtiles.PMTiles(new Patient(url)));
  return `pmtiles://${url}`;
}

function tiles(layer, query = {}) {
  if (!index.served) return archive(state.facts.exported[layer]);
  const asked = new URLSearchParams(query).toString();
  const [path, name] = layer.startsWith("measure:") ? ["measure", layer.slice(8)] : [layer, null];
  const all = [name && `name=${encodeURIComponent(name)}`, asked].filter(Boolean).join("&");
  return `${here}${base()}/${path}/{z}/{x}/{y}${all ? `?${all}` : ""}`;
}

function raster(layer, query) {
  const source = { type: "raster", tileSize: 256, maxzoom: state.facts.zoom };
  if (!index.served) return { type: "raster", tileSize: 256, url: tiles(layer) };
  const [west, south, east, north] = state.facts.bounds;
  return { ...source, tiles: [tiles(layer, query)], bounds: [Math.max(-180, west), south, Math.min(180, east), north] };
}

function labelsQuery() {
  const query = {};
  if (state.hidden.size) query.hide = [...state.hidden].join(",");
  if (Object.keys(state.thresholds).length) query.threshold = thresholdText();
  if (state.version) query.v = state.version;
  return query;
}

const thresholdText = () => Object.entries(state.thresholds).map(([id, value]) => `${id}:${value}`).join(",");

// Name of a layer of the panel -> its layers of the map, and the property that makes each lighter.
function panelLayers() {
  const { facts } = state;
  const all = [
    ["scene", "scene", facts.scene_problem === null, 1, [["scene", "raster-opacity"]]],
    ["labels", "labels", false, 0.6, [["labels", "raster-opacity"]]],
    ...facts.measures.map((name) => [`measure:${name}`, name, false, 0.8, [[`measure:${name}`, "raster-opacity"]]]),
    ["nodata", "no data", false, 0.8, [["nodata", "raster-opacity"]]],
    ["polygons", "polygons", true, 0.25, [["polygons", "fill-opacity"], ["changed", "fill-opacity"]]],
    ["seams", "seams of blocks", false, 0.8, [["seams", "line-opacity"]]],
  ];
  const wanted = params().get("on");
  if (!facts.finished) all[1][2] = true;
  return all
    .filter(([key]) => key !== "scene" || facts.scene_problem === null)
    .filter(([key]) => index.served || key === "polygons" || key === "seams" || key in facts.exported)
    .map(([key, name, on, opacity, layers]) => ({
      key, name, on: wanted === null ? on : wanted.split(",").includes(key), opacity, layers,
    }));
}

function colours() {
  if (one("colour").value === "probability") {
    const sure = state.known.sure ?? "mean_probability";
    return ["interpolate", ["linear"], ["coalesce", ["to-number", ["get", sure]], 0],
      0, "#440154", 0.5, "#3b528b", 0.7, "#21918c", 0.85, "#5ec962", 1, "#fde725"];
  }
  const pairs = state.facts.classes.flatMap(({ id, color }) => [id, color]);
  return ["match", ["to-number", ["get", "class"]], ...pairs, "#888888"];
}

const shown = () => ["!", ["in", ["to-number", ["get", "class"]], ["literal", [...state.hidden]]]];

function polygonLayers(source, extra = {}) {
  return [
    { id: source, type: "fill", source, ...extra, paint: { "fill-color": colours(), "fill-opacity": 0.25 } },
    { id: `${source}-case`, type: "line", source, ...extra,
      paint: { "line-color": "#ffffff", "line-opacity": 0.75, "line-width": ["interpolate", ["linear"], ["zoom"], 10, 1.2, 18, 4] } },
    { id: `${source}-line`, type: "line", source, ...extra,
      paint: { "line-color": colours(), "line-width": ["interpolate", ["linear"], ["zoom"], 10, 0.6, 18, 1.8] } },
    { id: `${source}-chosen`, type: "line", source, ...extra, filter: ["==", ["get", "id"], -1],
      paint: { "line-color": "#00e5ff", "line-width": 3.5 } },
  ];
}

// The other runs that lie on the globe.
function footprints() {
  const others = index.runs.filter(({ id, on_globe }) => id !== state.run && on_globe && state.facts.on_globe);
  const features = others.map(({ id, name, outline }) => ({
    type: "Feature", properties: { id, name }, geometry: { type: "Polygon", coordinates: outline },
  }));
  return { type: "FeatureCollection", features };
}

function style() {
  const { facts } = state;
  const empty = { type: "geojson", data: { type: "FeatureCollection", features: [] } };
  const sources = {
    outline: { type: "geojson", data: { type: "Feature", properties: {}, geometry: { type: "Polygon", coordinates: facts.outline } } },
    seams: index.served || facts.finished ? { type: "geojson", data: `${here}${base()}/seams.json` } : empty,
    changed: { ...empty }, done: { ...empty }, runs: { type: "geojson", data: footprints() },
  };
  const layers = [
    { id: "background", type: "background", paint: { "background-color": "#e8eaed" } },
    { id: "runs", type: "fill", source: "runs", paint: { "fill-color": "#0b57a4", "fill-opacity": 0.12 } },
    { id: "runs-line", type: "line", source: "runs", paint: { "line-color": "#0b57a4", "line-width": 1.5 } },
    { id: "outline", type: "line", source: "outline", paint: { "line-color": "#57606a", "line-width": 1 } },
  ];
  for (const { key } of state.layers) {
    if (key === "polygons" || key === "seams") continue;
    sources[key] = raster(key, key === "labels" ? labelsQuery() : state.version ? { v: state.version } : {});
    layers.push({ id: key, type: "raster", source: key, paint: { "raster-fade-duration": 0, "raster-resampling": key === "scene" ? "linear" : "nearest" } });
  }
  if (state.known.tiles) {
    sources.polygons = { type: "vector", url: archive("polygons.pmtiles") };
    layers.push(...polygonLayers("polygons", { "source-layer": "polygons" }));
  }
  layers.push(...polygonLayers("changed"));
  layers.push({ id: "done", type: "line", source: "done", paint: { "line-color": "#0b57a4", "line-width": 1.5 } });
  layers.push({ id: "seams", type: "line", source: "seams", paint: { "line-color": "#d000d0", "line-width": 1.5, "line-dasharray": [3, 2] } });
  return { version: 8, sources, layers };
}

function redraw() {
  map.setStyle(style(), { diff: true });
  apply();
}

// What the panel says, on the map.
function apply() {
  const changed = Object.keys(state.thresholds).length > 0;
  for (const { key, on, opacity, layers } of state.layers) {
    for (const [id, property] of layers) {
      if (!map.getLayer(id)) continue;
      const drawn = on && (key !== "polygons" || (id === "changed") === changed);
      const visibility = drawn ? "visible" : "none";
      map.setLayoutProperty(id, "visibility", visibility);
      map.setPaintProperty(id, property, opacity);
      if (key === "polygons") {
        for (const part of [id, `${id}-line`]) map.setPaintProperty(part, part === id ? "fill-color" : "line-color", colours());
        for (const part of [id, `${id}-case`, `${id}-line`]) map.setFilter(part, shown());
        for (const part of ["case", "line", "chosen"]) map.setLayoutProperty(`${id}-${part}`, "visibility", visibility);
      }
    }
  }
  const values = params();
  values.set("on", state.layers.filter((layer) => layer.on).map((layer) => layer.key).join(","));
  if (index.runs.length > 1) values.set("run", state.run);
  history.replaceState(null, "", `#${decodeURIComponent(values.toString())}`);
}

function drawLayers() {
  one("layers").replaceChildren(...state.layers.map((layer) => {
    const box = make("input", { type: "checkbox", checked: layer.on, onchange: () => { layer.on = box.checked; apply(); } });
    box.dataset.layer = layer.key;
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: layer.opacity,
      "aria-label": `Opacity of ${layer.name}`, oninput: () => { layer.opacity = Number(slider.value); apply(); } });
    return make("div", { className: "layer" }, make("label", {}, box, ` ${layer.name}`), slider);
  }));
}

function drawLegend() {
  const { classes = {}, unit = state.facts.on_globe ? "m2" : "px" } = state.known;
  const head = make("tr", {}, ...["", "polygons", "area"].map((textContent) => make("th", { textContent, scope: "col" })));
  const rows = state.facts.classes.filter((each) => !each.background || classes[each.id]).map(({ id, name, color }) => {
    const box = make("input", { type: "checkbox", checked: !state.hidden.has(id), onchange: () => {
      if (box.checked) state.hidden.delete(id); else state.hidden.add(id);
      refreshLabels();
      apply();
    } });
    box.dataset.class = name;
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = color;
    const found = classes[id];
    const waiting = state.known.ready ? "–" : "…";
    const counts = state.known.classes ? [number(found?.count ?? 0), area(found?.area ?? 0, unit)] : [waiting, waiting];
    return make("tr", {}, make("td", {}, make("label", {}, box, swatch, name)), ...counts.map((textContent) => make("td", { textContent })));
  });
  one("legend").replaceChildren(head, ...rows);
}

function refreshLabels() {
  if (index.served) map.getSource("labels")?.setTiles([tiles("labels", labelsQuery())]);
}

function select(id) {
  for (const layer of ["polygons-chosen", "changed-chosen"])
    if (map.getLayer(layer)) map.setFilter(layer, ["==", ["get", "id"], id]);
}

// --- Threshold ---
let running = null;
const change = later(async () => {
  running?.abort();
  running = new AbortController();
  const box = map.getBounds().toArray().flat().join(",");
  const found = await ask(`${base()}/changed.json?box=${box}&threshold=${thresholdText()}`, { signal: running.signal });
  if (!found || !Object.keys(state.thresholds).length) return;
  one("t-command").textContent = found.command.map((part) => (/^[\w@%+=:,./-]+$/.test(part) ? part : `'${part}'`)).join(" ");
  one("t-command").hidden = false;
  if (found.too_large) {
    one("t-counts").textContent = `Zoom in to see polygons: this window has more than ${found.too_large} pixels a side.`;
    map.getSource("changed").setData({ type: "FeatureCollection", features: [] });
    return;
  }
  const counts = Object.entries(found.counts).map(([name, count]) => `${number(count)} ${name}`).join(", ") || "no polygons";
  one("t-counts").textContent = `${counts} in ${found.whole ? "the scene" : "this window"}`;
  map.getSource("changed").setData(found);
}, 100);

function setThreshold(value) {
  state.thresholds = value === null ? {} : { [one("t-class").value]: value };
  one("t-value").textContent = (value ?? 0.5).toFixed(2);
  if (value === null) one("t-slider").value = 0.5;
  one("t-write").disabled = one("t-reset").disabled = value === null;
  refreshLabels();
  if (value === null) {
    running?.abort();
    map.getSource("changed")?.setData({ type: "FeatureCollection", features: [] });
    one("t-counts").textContent = "";
    one("t-command").hidden = true;
  } else change();
  apply();
}

one("t-slider").oninput = () => setThreshold(Number(one("t-slider").value));
one("t-class").onchange = () => setThreshold(null);
one("t-reset").onclick = () => setThreshold(null);
one("t-write").onclick = async () => {
  one("t-write").disabled = true;
  one("t-counts").textContent = "Writing…";
  const done = await send(`${base()}/written`, { threshold: thresholdText() });
  one("t-write").disabled = false;
  one("t-counts").textContent = done ? `${done.said.split("\n")[0]}; wrote ${done.files.join(", ")}` : "";
};
map.on("moveend", () => Object.keys(state.thresholds).length && change());

// --- Pointer ---
map.on("click", (event) => {
  const layers = ["changed", "polygons"].filter((id) => map.getLayer(id));
  const [feature] = map.queryRenderedFeatures(event.point, { layers });
  if (!feature) {
    const [other] = map.getLayer("runs") ? map.queryRenderedFeatures(event.point, { layers: ["runs"] }) : [];
    if (other) choose(other.properties.id);
    return;
  }
  select(feature.properties.id);
  new maplibre.Popup({ maxWidth: "340px" }).setLngLat(event.lngLat).setDOMContent(attributes(feature.properties)).addTo(map);
});
map.on("mousemove", ({ lngLat, point }) => {
  const { facts } = state;
  if (!facts) return;
  const { x, y } = maplibre.MercatorCoordinate.fromLngLat(lngLat);
  one("place").textContent = facts.on_globe
    ? `${lngLat.lat.toFixed(6)}, ${lngLat.lng.toFixed(6)}`
    : `row ${Math.floor((y - 0.5) / facts.fraction)}, column ${Math.floor((x - 0.5) / facts.fraction)}`;
  const layers = ["changed", "polygons", "runs"].filter((id) => map.getLayer(id));
  map.getCanvas().style.cursor = layers.length && map.queryRenderedFeatures(point, { layers }).length ? "pointer" : "";
});

// --- Swipe ---
function setDivider(share) {
  const width = one("map").clientWidth;
  const at = Math.min(1, Math.max(0, share)) * width;
  one("divider").style.left = `${at}px`;
  one("divider").setAttribute("aria-valuenow", Math.round((at / width) * 100));
  one("bare").style.clipPath = `inset(0 ${width - at}px 0 0)`;
}

const follow = () => bare?.jumpTo({ center: map.getCenter(), zoom: map.getZoom() });
one("swipe").onchange = () => {
  const on = one("swipe").checked;
  one("bare").hidden = one("divider").hidden = !on;
  bare?.remove();
  bare = null;
  map.off("move", follow);
  if (!on) return;
  const { sources: { scene } } = style();
  const layers = [{ id: "background", type: "background", paint: { "background-color": "#e8eaed" } }];
  if (scene) layers.push({ id: "scene", type: "raster", source: "scene", paint: { "raster-fade-duration": 0 } });
  bare = new maplibre.Map({
    container: "bare", interactive: false, attributionControl: false, renderWorldCopies: false, maxZoom: 24,
    style: { version: 8, sources: scene ? { scene } : {}, layers }, center: map.getCenter(), zoom: map.getZoom(),
  });
  map.on("move", follow);
  setDivider(0.5);
};
one("divider").onpointerdown = (event) => {
  one("divider").setPointerCapture(event.pointerId);
  one("divider").onpointermove = (moved) => {
    const { left, width } = one("map").getBoundingClientRect();
    setDivider((moved.clientX - left) / width);
  };
  one("divider").onpointerup = () => { one("divider").onpointermove = null; };
};
one("divider").onkeydown = ({ key }) => {
  const step = { ArrowLeft: -5, ArrowRight: 5 }[key];
  if (step) setDivider((Number(one("divider").getAttribute("aria-valuenow")) + step) / 100);
};

// --- One run ---
async function watch() {
  const { run } = state;
  const begun = { time: performance.now(), done: null };
  while (state.run === run) {
    const told = await ask(`${base()}/progress.json`);
    if (!told || state.run !== run) return;
    one("live").hidden = told.finished;
    if (told.finished) {
      if (begun.done !== null) await open(run);
      return;
    }
    begun.done ??= told.done;
    const each = (performance.now() - begun.time) / Math.max(1, told.done - begun.done) / 1000;
    const left = told.done > begun.done ? `, about ${Math.ceil((each * (told.blocks - told.done)) / 60)} min left` : "";
    one("bar").max = told.blocks;
    one("bar").value = told.done;
    one("left").textContent = `${told.done} of ${told.blocks} blocks${left}`;
    map.getSource("done")?.setData(told.area);
    if (told.done !== state.version) {
      state.version = told.done;
      refreshLabels();
    }
    await new Promise((go) => setTimeout(go, 2000));
  }
}

async function learn() {
  const { run } = state;
  while (state.run === run) {
    const known = await ask(`${base()}/polygons.json`);
    if (!known || state.run !== run) return;
    const drew = state.known.tiles;
    state.known = known;
    if (known.tiles && !drew) redraw();
    drawLegend();
    if (known.ready && (known.tiles || known.problem)) {
      if (known.problem && state.facts.finished) one("notes").textContent += ` ${known.problem}`;
      await audit.show(base(), known, index.served);
      return;
    }
    await new Promise((go) => setTimeout(go, 500));
  }
}

async function open(run) {
  problem(null);
  Object.assign(state, { run, known: {}, hidden: new Set(), thresholds: {}, version: 0 });
  const facts = await ask(`${base()}/facts.json`);
  if (!facts) return;
  state.facts = facts;
  state.layers = panelLayers();
  document.title = `${facts.name} – tileseg`;
  one("title").textContent = facts.name;
  const missing = facts.scene_problem ? `Without the scene: ${facts.scene_problem}. ` : "";
  const size = `${number(facts.width)} × ${number(facts.height)} px${facts.on_globe ? "" : ", no coordinates"}`;
  one("notes").textContent = `${facts.scene}, ${size}. ${missing}${facts.finished ? "" : "Not finished: what is not computed counts as no data."}`;
  one("thresholds").hidden = !(facts.can_change && index.served);
  one("t-class").replaceChildren(...facts.classes.filter((each) => !each.background).map(({ id, name }) => make("option", { value: id, textContent: name })));
  setThreshold(null);
  audit.show(base(), {}, index.served);
  if (scale) map.removeControl(scale);
  scale = facts.on_globe ? new maplibre.ScaleControl() : new PixelScale(facts.fraction);
  map.addControl(scale, "bottom-left");
  drawLayers();
  drawLegend();
  map.setStyle(style());
  apply();
  if (!linked || state.opened) map.fitBounds(facts.bounds, { padding: 20, duration: 0 });
  state.opened = true;
  if (one("swipe").checked) one("swipe").onchange();
  if (index.served) watch();
  learn();
}

one("colour").onchange = apply;
one("fold").onclick = () => {
  const open = one("fold").getAttribute("aria-expanded") === "true";
  one("fold").setAttribute("aria-expanded", String(!open));
};
one("runs").replaceChildren(...index.runs.map(({ id, name }) => make("option", { value: id, textContent: name })));
one("choose").hidden = index.runs.length < 2;
function choose(run) {
  const values = params();
  values.delete("on");
  history.replaceState(null, "", `#${decodeURIComponent(values.toString())}`);
  one("runs").value = run;
  open(run);
}

one("runs").onchange = () => choose(Number(one("runs").value));
one("all").onclick = () => {
  const bounds = index.runs.filter(({ on_globe }) => on_globe === state.facts.on_globe).map((each) => each.bounds);
  map.fitBounds([0, 1, 2, 3].map((i) => (i < 2 ? Math.min : Math.max)(...bounds.map((each) => each[i]))), { padding: 40, duration: 0 });
};
const first = Math.min(index.runs.length - 1, Math.max(0, Number(params().get("run") ?? 0) || 0));
one("runs").value = first;
if (map.loaded()) open(first);
else map.once("load", () => open(first));
