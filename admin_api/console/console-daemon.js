// The daemon behind the page: XRPC calls as `admin`. The password stays in this object alone.

const WAIT_MS = 15000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Daemon {
  #authorization;

  constructor(password) {
    const bytes = new TextEncoder().encode(`admin:${password}`);
    this.#authorization = `Basic ${btoa(String.fromCharCode(...bytes))}`;
  }

  query(nsid, parameters = {}) {
    const search = new URLSearchParams(parameters).toString();
    return this.#request(`/xrpc/${nsid}${search && `?${search}`}`, {});
  }

  call(nsid, input) {
    return this.#request(`/xrpc/${nsid}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(input),
    });
  }

  async #request(path, options) {
    let response;
    try {
      response = await fetch(path, {
        ...options,
        headers: { ...options.headers, Authorization: this.#authorization },
        credentials: "omit", // or the browser would ask for the password in a window of its own
        cache: "no-store",
        signal: AbortSignal.timeout(WAIT_MS),
      });
    } catch {
      throw new Refused(0, "The daemon does not answer. Trying again.");
    }
    const body = await response.json().catch(() => ({}));
    if (response.ok) return body;
    throw new Refused(response.status, `${body.error ?? response.status}: ${body.message ?? "no reason given"}`);
  }
}
