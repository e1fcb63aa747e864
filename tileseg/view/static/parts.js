// What the page is made of: elements, numbers, requests, controls.
export const one = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: 0, maximumFractionDigits: digits });

export function area(value, unit) {
  if (unit !== "m2") return `${number(value)} px`;
  if (value >= 1e6) return `${number(value / 1e6, 2)} km²`;
  return value >= 1e4 ? `${number(value / 1e4, 2)} ha` : `${number(value)} m²`;
}

export function problem(text) {
  one("problem").textContent = text ?? "";
  one("problem").hidden = !text;
}

// A request of JSON; what the server has to say of a failure is shown. null: it failed, or was given up.
export async function ask(address, options = {}) {
  try {
    const answer = await fetch(address, options);
    const body = await answer.json().catch(() => ({}));
    if (answer.ok) return body;
    problem(body.problem ?? `${address}: ${answer.status}`);
  } catch (error) {
    if (error.name !== "AbortError") problem(`${address}: ${error.message}; is tileseg view still running?`);
  }
  return null;
}

// Ranges of an archive. A connection that breaks is tried once more, past the browser's cache: one lost answer of the
// hundreds behind a map would leave a hole in it.
export class Patient extends pmtiles.FetchSource {
  async getBytes(...range) {
    try {
      return await super.getBytes(...range);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      this.mustReload = true;
      return super.getBytes(...range);
    }
  }
}

export const send = (address, body) =>
  ask(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Tileseg": "view" },
    body: JSON.stringify(body),
  });

export function later(action, milliseconds) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}

// How long so many pixels are, for scenes whose pixels have no size.
export class PixelScale {
  constructor(perPixel) {
    this.perPixel = perPixel;
  }

  onAdd(map) {
    this.map = map;
    this.element = make("div", { className: "maplibregl-ctrl pixels" });
    this.draw = () => {
      const most = 100 / (512 * 2 ** map.getZoom() * this.perPixel);
      const power = 10 ** Math.floor(Math.log10(most));
      const shown = [5, 2, 1].map((n) => n * power).find((n) => n <= most) ?? power;
      this.element.style.width = `${(shown / most) * 100}px`;
      this.element.textContent = `${number(shown, 2)} px`;
    };
    map.on("move", this.draw);
    this.draw();
    return this.element;
  }

  onRemove() {
    this.map.off("move", this.draw);
    this.element.remove();
  }
}

export function attributes(properties) {
  const rows = Object.entries(properties).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: String(value) })));
  const table = make("table", {}, ...rows);
  if (!("merged" in properties)) return table;
  const told = `Stands for ${properties.merged} polygons that are too small at this zoom; these are the largest one's:`;
  return make("div", {}, make("p", { textContent: told }), table);
}
