// Refuses a file that is too large before it is sent: the gateway would end the request amid it.

const field = document.querySelector("[data-max-bytes]");

field?.addEventListener("change", () => {
  const size = field.files[0]?.size ?? 0;
  field.setCustomValidity(size > Number(field.dataset.maxBytes) ? field.dataset.tooLarge : "");
  field.reportValidity();
});
