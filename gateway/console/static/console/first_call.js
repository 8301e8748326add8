// The quick start looks for the first call, and shows the dashboard when it has come.

const EVERY_MS = 2000;
const place = document.querySelector("[data-first-call]");

async function look() {
  if (!document.hidden) {
    try {
      const response = await fetch(place.dataset.firstCall, { headers: { accept: "application/json" } });
      if (response.ok && (await response.json()).has_calls) {
        location.reload();
        return;
      }
    } catch {
      // the gateway restarts: look again
    }
  }
  setTimeout(look, EVERY_MS);
}

if (place) setTimeout(look, EVERY_MS);
