// Swagger UI over this server's schema. Where every call needs the token, this tab's own is sent along.

const token = () => sessionStorage.getItem("holdfast-admin-token");

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  requestInterceptor: (request) => {
    // What was typed into "Authorize" wins.
    if (token() && !request.headers.Authorization) request.headers.Authorization = `Bearer ${token()}`;
    return request;
  },
});
