"use strict";
// Everything that is shown here stands in the tables below the picture; without this
// script a click on a tile leads there.
(() => {
  const map = document.querySelector(".map");
  const panel = document.querySelector("aside .chosen");
  const tiles = [...map.querySelectorAll(".tile")];
  const pills = [...map.querySelectorAll(".pill")];
  const threads = [...map.querySelectorAll(".thread")];
  const lines = [...map.querySelectorAll(".line")];

  const make = (name, text, kind) => {
    const one = document.createElement(name);
    if (text) one.textContent = text;
    if (kind) one.className = kind;
    return one;
  };

  const copied = (cell) => [...cell.childNodes].map((node) => node.cloneNode(true));

  const target = (link) => document.getElementById(link.getAttribute("href").slice(1));

  const open = (title) => {
    panel.replaceChildren();
    const head = make("h3", title);
    const close = make("button", "×");
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", clear);
    head.append(close);
    panel.append(head);
  };

  const clear = () => {
    panel.replaceChildren();
    map.classList.remove("choosing");
    for (const one of [...tiles, ...pills, ...threads, ...lines]) one.classList.remove("on", "chosen");
  };

  const light = (chosen, shown) => {
    for (const one of [...tiles, ...pills, ...threads, ...lines]) one.classList.remove("on", "chosen");
    map.classList.add("choosing");
    chosen.classList.add("on", "chosen");
    const ends = new Set();
    const bundles = new Set();
    for (const line of shown) {
      line.classList.add("on");
      bundles.add(line.dataset.bundle);
      for (const end of line.dataset.ends.split(" ")) ends.add(end);
    }
    for (const tile of tiles) if (ends.has(tile.dataset.tile)) tile.classList.add("on");
    for (const one of [...pills, ...threads]) if (bundles.has(one.dataset.bundle)) one.classList.add("on");
  };

  const chooseTile = (tile) => {
    const row = target(tile);
    const heads = [...row.closest("table").tHead.rows[0].cells].map((cell) => cell.textContent);
    const told = tile.getAttribute("aria-label");
    light(tile, lines.filter((line) => line.dataset.ends.split(" ").includes(tile.dataset.tile)));
    open(row.cells[0].textContent);
    panel.append(make("p", `${tile.closest(".region").dataset.service}: ${told}`, "muted"));
    const list = make("dl");
    [...row.cells].forEach((cell, number) => {
      if (!number || !cell.textContent.trim()) return;
      const value = make("dd");
      value.append(...copied(cell));
      list.append(make("dt", heads[number]), value);
    });
    panel.append(list);
  };

  const chooseBundle = (pill) => {
    const group = target(pill);
    light(pill, lines.filter((line) => line.dataset.bundle === pill.dataset.bundle));
    for (const thread of threads) if (thread.dataset.bundle === pill.dataset.bundle) thread.classList.add("on");
    open(group.rows[0].cells[0].textContent);
    const list = make("ul");
    for (const row of [...group.rows].slice(1)) {
      const [name, from, to, how, place] = [...row.cells].map((cell) => cell.textContent);
      const item = make("li");
      item.append(make("b", name), make("div", `${from} → ${to}`), make("div", how, "muted"));
      if (place) item.append(make("div", place, "muted"));
      list.append(item);
    }
    panel.append(list);
  };

  map.addEventListener("click", (event) => {
    const link = event.target.closest(".tile, .pill");
    if (!link) return clear();
    if (event.ctrlKey || event.metaKey || event.shiftKey) return undefined;
    event.preventDefault();
    if (link.classList.contains("chosen")) return clear();
    return link.classList.contains("tile") ? chooseTile(link) : chooseBundle(link);
  });

  // Arrow keys go to the nearest tile or label in their direction.
  const middle = (one) => {
    const box = one.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return clear();
    const from = document.activeElement && document.activeElement.closest(".tile, .pill");
    const way = ways[event.key];
    if (!from || !way) return undefined;
    const [x, y] = middle(from);
    let best = null;
    let least = Infinity;
    for (const one of [...tiles, ...pills]) {
      const [ox, oy] = middle(one);
      const along = (ox - x) * way[0] + (oy - y) * way[1];
      const aside = Math.abs((ox - x) * way[1]) + Math.abs((oy - y) * way[0]);
      const far = along + 2.5 * aside;
      if (one !== from && along > 1 && far < least) [best, least] = [one, far];
    }
    if (best) {
      event.preventDefault();
      best.focus();
    }
    return undefined;
  });

  const bar = make("div", "", "filter");
  const input = make("input");
  input.type = "search";
  input.placeholder = "Filter tables, columns, services";
  input.setAttribute("aria-label", input.placeholder);
  const told = make("span", "Click a table or a label; Esc closes.", "told");
  bar.append(input, told);
  document.querySelector(".canvas").prepend(bar);

  const rows = [...document.querySelectorAll(".everything tbody tr, .crossing tbody tr:not(:first-child)")];
  const words = new Map(
    tiles.map((tile) => {
      const cells = target(tile).cells;
      const said = [tile.getAttribute("aria-label"), tile.closest(".region").dataset.service];
      return [tile, `${said.join(" ")} ${cells[1].textContent}`.toLowerCase()];
    }),
  );
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    map.classList.toggle("filtering", Boolean(wanted));
    let found = 0;
    for (const tile of tiles) {
      const match = words.get(tile).includes(wanted);
      tile.classList.toggle("match", match);
      found += match;
    }
    for (const row of rows) {
      row.classList.toggle("hidden", Boolean(wanted) && !row.textContent.toLowerCase().includes(wanted));
    }
    told.textContent = wanted ? `${found} of ${tiles.length} tables` : "Click a table or a label; Esc closes.";
  });
})();
