// Calls to the API. Orders carry the admin token; a 401 asks for it, once, and sends the order again.

import { problemOf } from "./dom.js";

const KEY = "holdfast-admin-token";
const TIMEOUT_MS = 20_000;

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Api extends EventTarget {
  /** `askToken(again)` resolves with a token, or null when the person does not want to give one. */
  constructor(askToken) {
    super();
    this.askToken = askToken;
  }

  get token() {
    return sessionStorage.getItem(KEY);
  }

  set token(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    this.dispatchEvent(new Event("token"));
  }

  /** The JSON of a GET. Throws `Refused`, also when nobody answers. */
  async get(path) {
    const response = await this.send(path, { cache: "no-store" });
    if (!response.ok) throw new Refused((await problemOf(response)).words, response.status);
    return response.json();
  }

  /** The JSON of a POST; null when the token was asked for and not given. */
  async post(path, body = null, headers = {}) {
    for (let asked = false; ; asked = true) {
      const options = { method: "POST", headers: { ...headers } };
      if (this.token) options.headers.Authorization = `Bearer ${this.token}`;
      if (body) {
        options.headers["Content-Type"] = "application/json";
        options.body = JSON.stringify(body);
      }
      const response = await this.send(path, options);
      if (response.ok) return response.json();
      const { kind, words } = await problemOf(response);
      if (response.status !== 401 && kind !== "wrong-admin-token") throw new Refused(words, response.status);
      const refused = asked || this.token !== null;
      this.token = null;
      const token = await this.askToken(refused);
      if (!token) return null;
      this.token = token;
    }
  }

  async send(path, options) {
    try {
      return await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
    } catch (error) {
      const late = error.name === "TimeoutError";
      throw new Refused(late ? "The server did not answer in time." : "The server cannot be reached.", 0);
    }
  }
}

/** So that an order sent twice is done once. Works without a secure context, where randomUUID is missing. */
export function orderKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
