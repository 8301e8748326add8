// The form of a virtual key offers the teams and users of the key's organization.

const $ = django.jQuery;
const chosen = document.querySelector("#id_organization");
const owners = document.querySelectorAll("#id_team, #id_user");

$.ajaxPrefilter((options) => {
  if (!options.url.includes("/autocomplete/")) return;
  const organization = chosen?.value ?? owners[0]?.dataset.organization;
  if (organization) options.url += `${options.url.includes("?") ? "&" : "?"}organization=${encodeURIComponent(organization)}`;
});

chosen?.addEventListener("change", () => {
  for (const owner of owners) $(owner).val(null).trigger("change");
});
