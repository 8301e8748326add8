// Offers the known model groups under a field that takes a list of them, one a line.

const CHIPS = 12;

const lines = (field) =>
  field.value
    .split(/[\n,]/)
    .map((name) => name.trim())
    .filter(Boolean);

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
      mark();
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
  if (response.ok) offer(field, (await response.json()).names);
}
