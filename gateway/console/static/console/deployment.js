// The deployment form follows the chosen provider: its own fields, its usual address and what it needs.

const provider = document.querySelector("[data-providers]");

if (provider) {
  const known = JSON.parse(provider.dataset.providers);
  const base = document.getElementById("id_api_base");
  const key = document.getElementById("id_api_key");
  const stored = key?.placeholder;

  const follow = () => {
    const chosen = known[provider.value];
    for (const field of document.querySelectorAll("[data-provider-field]")) {
      field.classList.toggle("tg-of-provider", !!chosen?.fields.includes(field.name));
    }
    if (!chosen) return;
    base.placeholder = chosen.base || (chosen.needsBase ? "https://host:port/v1" : "");
    base.required = chosen.needsBase && !chosen.base;
    if (key) key.placeholder = stored || (chosen.needsKey ? "" : key.dataset.optional || "");
  };

  provider.addEventListener("change", follow);
  follow();
}
