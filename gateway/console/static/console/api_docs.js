// The page of the management API. A validator would be asked on the internet, so there is none.
window.SwaggerUIBundle({
  url: "/api/schema",
  dom_id: "#api-docs",
  presets: [window.SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  validatorUrl: null,
  docExpansion: "none",
  deepLinking: true,
});
