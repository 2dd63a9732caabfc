// Swagger UI for this server's schema. If every call needs the token, this tab's token is sent along.

const token = () => sessionStorage.getItem("holdfast-admin-token");

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  requestInterceptor: (request) => {
    // A token entered under "Authorize" takes precedence.
    if (token() && !request.headers.Authorization) request.headers.Authorization = `Bearer ${token()}`;
    return request;
  },
});
