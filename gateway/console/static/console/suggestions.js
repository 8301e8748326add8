// Offers the model groups under a field that takes a list of them, one a line, and warns of names that none has.

const CHIPS = 12;
const EVERY_MODEL = ["all-team-models", "all-proxy-models"];
const MOST_NAMES = 1000; // the response has no more

const lines = (field) =>
  field.value
    .split(/[\n,]/)
    .map((name) => name.trim())
    .filter(Boolean);

function warn(field, names) {
  if (names.length >= MOST_NAMES) return;
  const note = document.createElement("p");
  note.className = "tg-warning";
  note.setAttribute("role", "status");
  const groups = new Set([...names, ...EVERY_MODEL]);
  const check = () => {
    const unknown = lines(field).filter((name) => !name.includes("*") && !groups.has(name));
    note.textContent = unknown.length ? `No enabled deployment has this model group: ${unknown.join(", ")}` : "";
  };
  field.addEventListener("input", check);
  field.after(note);
  check();
}

function offer(field, names) {
  if (!names.length) return;
  const row = document.createElement("div");
  row.className = "tg-suggestions";
  const chips = names.slice(0, CHIPS).map((name) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "tg-suggestion";
    chip.textContent = name;
    chip.addEventListener("click", () => {
      const chosen = lines(field);
      const others = chosen.filter((other) => other !== name);
      field.value = (others.length === chosen.length ? [...chosen, name] : others).join("\n");
      field.dispatchEvent(new Event("input"));
    });
    row.append(chip);
    return chip;
  });
  const mark = () => {
    const chosen = new Set(lines(field));
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chosen.has(chip.textContent)));
  };
  field.addEventListener("input", mark);
  mark();
  field.after(row);
}

for (const field of document.querySelectorAll("[data-suggestions]")) {
  const response = await fetch(field.dataset.suggestions, { headers: { Accept: "application/json" } });
  if (!response.ok) continue;
  const { names } = await response.json();
  warn(field, names);
  offer(field, names);
}
