// Calls to the API. After a 401 the page asks for the admin token once and repeats the call. The tab keeps the token.

import { problemOf } from "./dom.js";

const KEY = "holdfast-admin-token";
const TIMEOUT_MS = 20_000;
const STREAM_TIMEOUT_MS = 12_000;

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Api extends EventTarget {
  /** `askToken(again)` resolves with a token, or with null if the user does not enter one. */
  constructor(askToken) {
    super();
    this.askToken = askToken;
    this.asking = null;
    this.declined = false;
  }

  get token() {
    return sessionStorage.getItem(KEY);
  }

  set token(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    if (value) this.declined = false;
    this.dispatchEvent(new Event("token"));
  }

  /** Returns the JSON of a GET. Throws `Refused`, also if the server does not answer or the token is missing. */
  async get(path) {
    const response = await this.call(path, { cache: "no-store" });
    return response.json();
  }

  /** Returns the JSON of a POST or DELETE; null if the user did not enter the requested token. */
  async write(method, path, body = null, headers = {}) {
    const options = { method, headers: { ...headers } };
    if (body) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    // The user asked for this action, so ask for the token again.
    this.declined = false;
    try {
      const response = await this.call(path, options);
      return await response.json();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return null;
      throw error;
    }
  }

  /** Returns a successful response. A stream passes its own `abort`, and has a time limit to begin. Throws `Refused`. */
  async call(path, options = {}) {
    for (;;) {
      const token = this.token;
      const headers = { ...options.headers };
      if (token) headers.Authorization = `Bearer ${token}`;
      const response = await this.send(path, { ...options, headers });
      if (response.ok) return response;
      const { kind, words } = await problemOf(response);
      const wrong = kind === "wrong-admin-token";
      if (response.status !== 401 && !wrong) throw new Refused(words, response.status);
      // Several calls may be refused concurrently: one asks for the token, and the others use the answer.
      if (token === this.token && !(await this.ask(wrong))) throw new Refused(words, 401);
    }
  }

  /** Returns whether there is a token now. */
  ask(again) {
    if (this.declined) return Promise.resolve(false);
    this.asking ??= this.unlock(again).finally(() => {
      this.asking = null;
    });
    return this.asking;
  }

  async unlock(again) {
    this.token = null;
    const token = await this.askToken(again);
    if (token) this.token = token;
    else this.declined = true;
    return Boolean(token);
  }

  async send(path, { abort, ...options }) {
    const late = abort ? null : AbortSignal.timeout(TIMEOUT_MS);
    const timer = abort ? setTimeout(() => abort.abort(), STREAM_TIMEOUT_MS) : 0;
    try {
      return await fetch(path, { ...options, signal: late ?? abort.signal });
    } catch (error) {
      const words = error.name === "TimeoutError" ? "did not answer in time" : "cannot be reached";
      throw new Refused(`The server ${words}.`, 0);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Returns an idempotency key. Works without a secure context too, where randomUUID is missing. */
export function idempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
