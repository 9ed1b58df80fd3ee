// Requests to the service. The key is kept here, in memory alone.

const BASE = new URL("../", import.meta.url); // of the service, below its root path
const TRIES = 6;

/** An answer of the service that is an error. */
export class ServiceError extends Error {
  constructor(status, body, requestId) {
    super(body.message ?? `The service answered with status ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.param = body.param ?? "";
    this.requestId = body.request_id ?? requestId ?? "";
  }
}

export class Service {
  #key = "";
  #askForKey;
  #asking = null;
  #running = 0;
  #waiting = [];

  /** askForKey: called with whether a key was refused; returns a promise of a key, or of null where none is given. */
  constructor(askForKey) {
    this.#askForKey = askForKey;
  }

  get url() {
    return BASE.href.replace(/\/$/, "");
  }

  get hasKey() {
    return this.#key !== "";
  }

  info() {
    return this.#json("info");
  }

  /** The bundled PDF. */
  async sample() {
    const answer = await this.#send("playground/town-guide.pdf");
    return new File([await answer.blob()], "town-guide.pdf", { type: "application/pdf" });
  }

  register(id, file, ttlSeconds) {
    const headers = { "Content-Type": "application/octet-stream" };
    return this.#json(`documents/${id}?ttl_seconds=${ttlSeconds}`, { method: "PUT", headers, body: file });
  }

  /** Also works while the page is being closed; nobody waits for the answer. */
  forget(id) {
    const headers = this.#headers({});
    fetch(new URL(`documents/${id}`, BASE), { method: "DELETE", headers, keepalive: true }).catch(() => {});
  }

  rerank(body) {
    const headers = { "Content-Type": "application/json" };
    return this.#json("rerank", { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** A page as an image. Few at a time, so that requests with questions find room. */
  async pageImage(id, page, width) {
    if (this.#running >= 3) await new Promise((start) => this.#waiting.push(start));
    this.#running += 1;
    try {
      const answer = await this.#send(`documents/${id}/pages/${page}/image?width=${width}`);
      return await answer.blob();
    } finally {
      this.#running -= 1;
      this.#waiting.shift()?.();
    }
  }

  async #json(path, options) {
    return (await this.#send(path, options)).json();
  }

  #headers(headers) {
    return this.#key ? { ...headers, Authorization: `Bearer ${this.#key}` } : headers;
  }

  async #send(path, options = {}) {
    for (let tries = 1; ; tries += 1) {
      const sent = this.#key;
      let answer;
      try {
        answer = await fetch(new URL(path, BASE), { ...options, headers: this.#headers(options.headers ?? {}) });
      } catch {
        throw new ServiceError(0, { message: "The service cannot be reached. Is it still running?" });
      }
      if (answer.ok) return answer;
      if (answer.status === 401 && (await this.#hasOtherKey(sent))) continue;
      const isBusy = answer.status === 429 || answer.status === 503;
      if (!isBusy || tries === TRIES || (options.method ?? "GET") !== "GET") {
        const body = await answer.json().catch(() => ({}));
        throw new ServiceError(answer.status, body, answer.headers.get("X-Request-Id"));
      }
      const seconds = Number(answer.headers.get("Retry-After") ?? 1);
      await new Promise((resume) => setTimeout(resume, 1000 * Math.min(5, Math.max(0.2, seconds))));
    }
  }

  /** Ask for a key, once for all requests that were refused. */
  async #hasOtherKey(refused) {
    if (refused !== this.#key) return true;
    this.#asking ??= this.#askForKey(refused !== "").finally(() => (this.#asking = null));
    const key = await this.#asking;
    if (key) this.#key = key;
    return Boolean(key);
  }
}
