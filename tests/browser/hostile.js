// What a hostile page tries against Holdfast in the browser of somebody who uses it. Each attempt reports
// what the page could see of it: {name, read: anything readable or null}.
async ({ target, token }) => {
  const READ = ["/workflows", "/executors", "/console/snapshot", "/metrics", "/openapi.json", "/readyz", "/cache"];
  const CHANGE = [
    ["POST", "/nested"], ["POST", "/scope/class"], ["POST", "/fibonacci/batches"], ["POST", "/users/pages"],
    ["POST", "/shutdown"], ["POST", "/executors/worker-a/drain"], ["POST", "/executors/worker-a/crash"],
    ["POST", "/stranded/adopt"], ["DELETE", "/cache"], ["DELETE", "/workflows/w"],
  ];
  const results = [];
  const seconds = (n) => new Promise((done) => setTimeout(done, n * 1000));
  const attempt = async (name, action) => {
    let read = null;
    try {
      read = (await Promise.race([action(), seconds(5).then(() => null)])) ?? null;
    } catch {
      // Refused by the browser: nothing was read.
    }
    results.push({ name, read });
  };
  const ask = async (path, options) => {
    const response = await fetch(target + path, { cache: "no-store", credentials: "include", ...options });
    const text = await response.text();
    return response.type === "opaque" ? text || null : `${response.status} ${text.slice(0, 200)}`;
  };

  for (const path of READ) {
    for (const mode of ["cors", "no-cors"]) await attempt(`GET ${mode} ${path}`, () => ask(path, { mode }));
    const headers = { Authorization: `Bearer ${token}` };
    await attempt(`GET with the token ${path}`, () => ask(path, { headers }));
  }
  for (const [method, path] of CHANGE) {
    for (const mode of ["cors", "no-cors"]) {
      await attempt(`${method} ${mode} ${path}`, () => ask(path, { method, mode }));
      await attempt(`${method} text ${mode} ${path}`, () => ask(path, { method, mode, body: "{}" }));
      const body = new Blob(["{}"], { type: "application/json" });
      await attempt(`${method} json ${mode} ${path}`, () => ask(path, { method, mode, body }));
    }
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    await attempt(`${method} with the token ${path}`, () => ask(path, { method, headers, body: "{}" }));
    await attempt(`beacon ${path}`, async () => { navigator.sendBeacon(target + path); });
    await attempt(`text beacon ${path}`, async () => { navigator.sendBeacon(target + path, "{}"); });
    await attempt(`keepalive ${path}`, () => ask(path, { method, mode: "no-cors", keepalive: true }));
  }

  const waited = (element, url, property) =>
    new Promise((done) => {
      element.onload = () => done("loaded");
      element.onerror = () => done(null);
      element[property] = url;
      document.body.append(element);
    });
  for (const path of ["/workflows", "/console/snapshot", "/static/main.js", "/static/icon.svg", "/metrics"]) {
    for (const [tag, property] of [["img", "src"], ["script", "src"], ["video", "src"], ["embed", "src"]]) {
      await attempt(`<${tag}> ${path}`, async () => {
        const seen = await waited(document.createElement(tag), target + path, property);
        return tag === "embed" ? null : seen; // an embed loads an error page all the same
      });
    }
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    await attempt(`<link> ${path}`, () => waited(sheet, target + path, "href"));
  }
  for (const path of ["/", "/workflows", "/docs"]) {
    await attempt(`<iframe> ${path}`, async () => {
      const frame = document.createElement("iframe");
      await waited(frame, target + path, "src");
      return frame.contentDocument?.body?.textContent?.slice(0, 200) || null;
    });
  }

  for (const [, path] of CHANGE.filter(([method]) => method === "POST")) {
    for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
      for (const value of [null, '"}']) {
        await attempt(`form ${enctype} ${path}`, async () => {
          const frame = document.createElement("iframe");
          frame.name = `frame${results.length}`;
          document.body.append(frame);
          const form = document.createElement("form");
          Object.assign(form, { method: "POST", action: target + path, enctype, target: frame.name });
          if (value) {
            const input = document.createElement("input");
            Object.assign(input, { name: '{"x": "', value });
            form.append(input);
          }
          document.body.append(form);
          const loaded = new Promise((done) => { frame.onload = done; });
          form.submit();
          await loaded;
          return frame.contentDocument?.body?.textContent?.slice(0, 200) || null;
        });
      }
    }
  }

  for (const withCredentials of [false, true]) {
    await attempt("EventSource", () => new Promise((done) => {
      const source = new EventSource(`${target}/console/events`, { withCredentials });
      source.onopen = () => done("open");
      source.onmessage = () => done("message");
      source.addEventListener("snapshot", (event) => done(event.data.slice(0, 200)));
      source.onerror = () => { source.close(); done(null); };
    }));
  }
  await attempt("WebSocket", () => new Promise((done) => {
    const socket = new WebSocket(target.replace("http", "ws"));
    socket.onopen = () => done("open");
    socket.onerror = () => done(null);
  }));
  await attempt("window.open", async () => {
    const opened = window.open(`${target}/`);
    await seconds(1);
    return opened && !opened.closed ? opened.document.title || null : null;
  });
  return results;
}
