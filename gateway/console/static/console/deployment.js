// The deployment form follows the chosen provider: its usual address as the placeholder, and what it needs.

const provider = document.querySelector("[data-providers]");

if (provider) {
  const known = JSON.parse(provider.dataset.providers);
  const base = document.getElementById("id_api_base");
  const key = document.getElementById("id_api_key");
  const stored = key?.placeholder;

  const follow = () => {
    const chosen = known[provider.value];
    if (!chosen) return;
    base.placeholder = chosen.base || (chosen.needsBase ? "https://host:port/v1" : "");
    base.required = chosen.needsBase && !chosen.base;
    if (key) key.placeholder = stored || (chosen.needsKey ? "" : key.dataset.optional || "");
  };

  provider.addEventListener("change", follow);
  follow();
}
