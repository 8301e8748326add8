// Copy buttons that also work on plain HTTP, where navigator.clipboard does not exist.
//
// <button type="button" data-copy="#id" data-copied="Copied" data-failed="Press Ctrl+C">Copy</button>
// copies the value or text of the element; the button and screen readers report the result.

const SHOWN_MS = 2500;

const textOf = (element) => ("value" in element ? element.value : element.textContent);

async function copy(text) {
  if (window.isSecureContext && navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // refused by permission: the other way may still work
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "tg-offscreen";
  document.body.append(area);
  area.select();
  area.setSelectionRange(0, text.length);
  let done = false;
  try {
    done = document.execCommand("copy");
  } catch {
    done = false;
  }
  area.remove();
  return done;
}

function select(element) {
  if (element.select) {
    element.focus();
    element.select();
    return;
  }
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = window.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

async function run(button) {
  const source = document.querySelector(button.dataset.copy);
  if (!source) return;
  const label = button.querySelector("[data-label]") ?? button;
  button.dataset.idle ??= label.textContent;
  const done = await copy(textOf(source));
  if (!done) select(source);
  label.textContent = done ? button.dataset.copied : button.dataset.failed;
  button.dataset.result = done ? "done" : "failed";
  button.setAttribute("aria-live", "polite");
  clearTimeout(button.resetTimer);
  button.resetTimer = setTimeout(() => {
    label.textContent = button.dataset.idle;
    delete button.dataset.result;
  }, SHOWN_MS);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (button) run(button);
  const whole = event.target.closest?.("[data-select-all]");
  if (whole && !button) select(whole);
});
