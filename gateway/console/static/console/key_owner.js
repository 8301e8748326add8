// The form of a virtual key offers the teams and users of the key's organization.

const $ = django.jQuery;
const chosen = document.querySelector("#id_organization");
const owners = document.querySelectorAll("#id_team, #id_user");

// Select2 gives its box no name of its own.
function nameBoxes() {
  for (const owner of owners) {
    const label = document.querySelector(`label[for="${owner.id}"]`);
    if (!label) continue;
    label.id ||= `${owner.id}_label`;
    for (const box of owner.parentElement.querySelectorAll(".select2-selection, .select2-selection__rendered")) {
      box.setAttribute("aria-labelledby", label.id);
    }
  }
}
$(() => setTimeout(nameBoxes));

$.ajaxPrefilter((options) => {
  if (!options.url.includes("/autocomplete/")) return;
  const organization = chosen?.value ?? owners[0]?.dataset.organization;
  if (organization) options.url += `${options.url.includes("?") ? "&" : "?"}organization=${encodeURIComponent(organization)}`;
});

chosen?.addEventListener("change", () => {
  for (const owner of owners) $(owner).val(null).trigger("change");
});
