// The least certain polygons, one after the other, and what is thought of them.
import { ask, make, number, one, send } from "./parts.js";

const KEYS = { r: "right", w: "wrong", a: "again" };

export class Audit {
  constructor(map, select) {
    this.map = map;
    this.select = select;
    this.at = -1;
    this.list = [];
    this.marks = {};
    for (const button of document.querySelectorAll("[data-step]"))
      button.onclick = () => this.go(this.at + Number(button.dataset.step));
    for (const button of document.querySelectorAll("#marks button"))
      button.onclick = () => this.mark(button.dataset.verdict);
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      if (one("audit").hidden) return;
      if (event.key === "n") this.go(this.at + 1);
      else if (event.key === "p") this.go(this.at - 1);
      else if (event.key in KEYS) this.mark(KEYS[event.key]);
    });
  }

  async show(base, facts, served) {
    this.base = base;
    this.list = facts.uncertain ?? [];
    this.at = -1;
    one("audit").hidden = !this.list.length;
    one("marks").hidden = !served;
    this.marks = (served && (await ask(`${base}/reviews.json`))) || {};
    one("a-list").replaceChildren(...this.list.map((entry, i) => make("li", {
      textContent: `${entry.class} ${number(entry.value, 4)}`, tabIndex: 0,
      onclick: () => this.go(i),
      onkeydown: (event) => event.key === "Enter" && this.go(i),
    })));
    this.draw();
  }

  draw() {
    [...one("a-list").children].forEach((item, i) => {
      const verdict = this.marks[this.list[i].id];
      if (verdict) item.dataset.verdict = verdict;
      else delete item.dataset.verdict;
      item.setAttribute("aria-current", String(i === this.at));
    });
    const here = this.at < 0 ? null : this.list[this.at];
    one("a-place").textContent = `${here ? `${this.at + 1} of ` : ""}${this.list.length}`;
    for (const button of document.querySelectorAll("#marks button")) {
      button.disabled = !here;
      button.setAttribute("aria-pressed", String(Boolean(here) && this.marks[here.id] === button.dataset.verdict));
    }
  }

  go(index) {
    if (index < 0 || index >= this.list.length) return;
    this.at = index;
    const { id, box: [west, south, east, north] } = this.list[index];
    this.map.fitBounds([west, south, east, north], { padding: 120, maxZoom: this.map.getMaxZoom() - 2, duration: 300 });
    this.select(id);
    this.draw();
    one("a-list").children[index].scrollIntoView({ block: "nearest" });
  }

  async mark(verdict) {
    if (this.at < 0 || one("marks").hidden) return;
    const { id } = this.list[this.at];
    const marks = await send(`${this.base}/review`, { id, verdict: this.marks[id] === verdict ? null : verdict });
    if (!marks) return;
    this.marks = marks;
    this.draw();
  }
}
