"use strict";
(() => {
  const answers = JSON.parse(document.getElementById("answers").textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Filters: a part of the page names the runs that it needs, and is shown while all of them are.
  const form = document.querySelector(".filters");
  const runs = all(".run");
  const names = { "data set": "dataset", target: "target", attack: "attack" };
  const filter = () => {
    const wanted = all("select", form).filter((select) => select.value);
    const shown = new Set(
      runs.filter((run) => wanted.every((select) => run.dataset[names[select.dataset.filter]] === select.value))
        .map((run) => run.id),
    );
    for (const part of all("[data-runs]")) {
      part.hidden = !part.dataset.runs.split(" ").every((run) => shown.has(run));
    }
    form.querySelector("output").textContent = `${shown.size} of ${runs.length} runs shown`;
  };
  if (form) {
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter(); // a browser may have kept the choices over a reload
  }

  // Tables of images: one stop of the Tab key, arrow keys within.
  for (const table of all("[data-grid]")) {
    const rows = all("tr", table).map((row) => all("button", row)).filter((row) => row.length);
    const stop = (wanted) => { for (const button of rows.flat()) button.tabIndex = button === wanted ? 0 : -1; };
    stop(rows[0]?.[0]);
    table.addEventListener("focusin", (event) => stop(event.target));
    table.addEventListener("keydown", (event) => {
      const y = rows.findIndex((row) => row.includes(event.target));
      if (y < 0) return;
      const x = rows[y].indexOf(event.target);
      const last = rows[y].length - 1;
      const [row, column] = {
        ArrowUp: [y - 1, x], ArrowDown: [y + 1, x], ArrowLeft: [y, x - 1], ArrowRight: [y, x + 1],
        Home: [y, 0], End: [y, last],
      }[event.key] ?? [-1, -1];
      const next = rows[row]?.[column];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
  }

  // The viewer: an image enlarged, with what the classifier says of it.
  const viewer = document.getElementById("viewer");
  const image = document.getElementById("viewer-image");
  const said = document.getElementById("viewer-said");
  const make = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const tableOf = (answer, classes) => {
    const table = make("table");
    table.append(make("caption", `The classifier, ${answer.title}`));
    const order = answer.probabilities.map((_, label) => label)
      .sort((a, b) => answer.probabilities[b] - answer.probabilities[a]);
    const kept = order.filter((label, place) => place < 5 || label === answer.label || label === answer.target);
    for (const label of kept) {
      const notes = [];
      if (label === answer.label) notes.push("true");
      if (label === answer.target) notes.push("attacker’s");
      const row = table.insertRow();
      const name = make("th", classes[label] + (notes.length ? ` (${notes.join(", ")})` : ""));
      name.scope = "row";
      const share = make("div", undefined, label === answer.target ? "share wanted" : "share");
      const filled = make("span");
      filled.style.width = `${100 * answer.probabilities[label]}%`;
      share.append(filled);
      row.append(name);
      row.insertCell().append(share);
      row.insertCell().textContent = `${(100 * answer.probabilities[label]).toFixed(1)} %`;
    }
    return table;
  };
  let current = null;
  const show = (button) => {
    current = button;
    const source = button.querySelector("img");
    const pixels = button.classList.contains("pixel");
    image.src = source.src;
    image.alt = source.alt;
    image.className = pixels ? "crisp" : "drawn";
    if (pixels) {
      // A whole multiple of its size, as large as there is room for.
      const room = Math.min(window.innerWidth - 64, 0.6 * window.innerHeight, 480);
      image.style.width = `${Math.max(1, Math.floor(room / source.naturalWidth)) * source.naturalWidth}px`;
    } else {
      image.style.width = "";
    }
    document.getElementById("viewer-title").textContent = source.alt;
    const known = answers[button.dataset.run];
    const keys = (button.dataset.said ?? "").split(" ").filter((key) => known && known.said[key]);
    said.replaceChildren(...keys.map((key) => tableOf(known.said[key], known.classes)));
    if (!viewer.open) viewer.showModal();
  };
  const move = (step) => {
    const table = current.closest("[data-grid]");
    const buttons = table ? all("button", table) : all("button.plot").filter((button) => button.offsetParent);
    const place = (buttons.indexOf(current) + step + buttons.length) % buttons.length;
    show(buttons[place]);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.pixel, button.plot");
    if (button) show(button);
    else if (event.target === viewer || event.target.closest("[data-close]")) viewer.close();
    else if (event.target.closest("[data-move]")) move(Number(event.target.closest("[data-move]").dataset.move));
  });
  viewer.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
  });
  viewer.addEventListener("close", () => { current?.focus(); });

  // On paper nothing can be opened.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const one of closed) one.open = true;
  });
  window.addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
})();
