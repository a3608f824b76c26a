// Verifies access tokens without a call: with the published keys, and with what
// WatchRevocations says must no longer be accepted.
import { setTimeout as sleep } from "node:timers/promises";
import { createLocalJWKSet, decodeProtectedHeader, errors, jwtVerify } from "jose";
import type { JSONWebKeySet, JWTPayload } from "jose";
import { call, reasonOf } from "./connect";
import { AuthServiceClient } from "./gen/typescript/authsvc/v1/auth_service";
import { SessionServiceClient } from "./gen/typescript/authsvc/v1/session_service";
import type { WatchRevocationsResponse } from "./gen/typescript/authsvc/v1/session_service";

// docs: verify
/** The verifier's knowledge is too old, so it may not decide by itself. */
export class Undecided extends Error {}

/** The token must not be accepted; the message is why. */
export class Refused extends Error {}

const MAX_STALENESS = 1_000; // milliseconds; older knowledge decides nothing
const PATIENCE = 5_000; // a stream that tells nothing new for so long is opened anew
const KEY_COOLDOWN = 5_000; // between two searches for unknown keys, found or failed
const CLOCK_SKEW = 5; // seconds, as in the service's tokens.clock_skew

/** Verifies everything about a token that can be seen from it and the keys. */
export async function check(
  token: string,
  keys: JSONWebKeySet,
  issuer: string,
  audience: string,
  thumbprint = "",
): Promise<JWTPayload> {
  // The key decides the algorithm, never the token.
  const { payload } = await jwtVerify(token, createLocalJWKSet(keys), {
    issuer,
    audience,
    typ: "at+jwt",
    clockTolerance: CLOCK_SKEW,
    requiredClaims: ["exp", "iat", "sub"],
  });
  const bound = payload.cnf as { "x5t#S256"?: string } | undefined;
  if (bound && (!thumbprint || bound["x5t#S256"] !== thumbprint)) {
    throw new Refused("CERTIFICATE_MISMATCH");
  }
  return payload;
}

/** Holds the published keys and what was revoked. */
export class Verifier {
  private keys: JSONWebKeySet | undefined;
  private keysTime = -Infinity;
  private failedTime = -Infinity; // when the keys could not be fetched
  private fetching: Promise<JSONWebKeySet> | undefined;
  private readonly sessions = new Map<string, number>(); // each with the time to forget it
  private readonly badKeys = new Map<string, number>();
  // Tokens issued in that second or before are refused.
  private readonly users = new Map<string, { second: number; forget: number }>();
  private swept = 0;
  private knownUntil = -Infinity; // on the monotonic clock
  private cursor = "";

  constructor(
    readonly auth: AuthServiceClient,
    private readonly client: SessionServiceClient,
    private readonly issuer: string,
    readonly audience: string,
  ) {}

  /**
   * Returns the claims of an access token that may be accepted. `thumbprint` is the x5t#S256 of
   * the certificate that the token came with.
   */
  async verify(token: string, thumbprint = ""): Promise<JWTPayload> {
    if (this.age() > MAX_STALENESS) throw new Undecided("authsvc has not been heard of lately");
    const id = keyOf(token);
    const keys = await this.keysFor(id);
    const claims = await check(token, keys, this.issuer, this.audience, thumbprint);
    const event = this.users.get(claims.sub!);
    if (
      this.badKeys.has(id) ||
      this.sessions.has(String(claims.sid)) ||
      (event && claims.iat! <= event.second)
    ) {
      throw new Refused("SESSION_REVOKED");
    }
    return claims;
  }

  /** How old the verifier's knowledge is, in milliseconds. */
  age(): number {
    return performance.now() - this.knownUntil;
  }
  // docs: end

  // docs: keys
  /**
   * Returns the keys, fetched again if `id` is not among them. Whoever sends unknown keys causes
   * one call in a while, even if it fails, and all who wait for it share it.
   */
  private async keysFor(id: string): Promise<JSONWebKeySet> {
    const young = performance.now() - this.keysTime < KEY_COOLDOWN;
    if (this.keys && (young || this.keys.keys.some((key) => key.kid === id))) return this.keys;
    if (performance.now() - this.failedTime < KEY_COOLDOWN) {
      throw new Undecided("the keys could not be fetched");
    }
    this.fetching ??= this.fetchKeys().finally(() => (this.fetching = undefined));
    return this.fetching;
  }

  private async fetchKeys(): Promise<JSONWebKeySet> {
    try {
      const { jwksJson } = await call(this.auth, this.auth.getJwks, {});
      this.keys = JSON.parse(jwksJson) as JSONWebKeySet;
    } catch (error) {
      this.failedTime = performance.now();
      throw new Undecided("the keys can't be fetched", { cause: error });
    }
    this.keysTime = performance.now();
    return this.keys;
  }
  // docs: end

  // docs: watch
  /**
   * Follows the revocations until it is told to stop. After an error it continues with the cursor
   * of the last response, on any replica.
   */
  async watch(stop: AbortSignal): Promise<void> {
    let pause = 100;
    while (!stop.aborted) {
      const began = performance.now();
      try {
        await this.follow(stop);
      } catch (error) {
        // Then everything that may still matter is sent again.
        if (reasonOf(error) === "CURSOR_TOO_OLD") this.cursor = "";
      }
      if (performance.now() - began > PATIENCE) pause = 100;
      // At a random time, so that verifiers don't all come back at once.
      await sleep(Math.random() * pause);
      pause = Math.min(2 * pause, PATIENCE);
    }
  }

  private async follow(stop: AbortSignal): Promise<void> {
    const sent = performance.now();
    const stream = this.client.watchRevocations({ cursor: this.cursor });
    const cancel = () => stream.cancel();
    stop.addEventListener("abort", cancel);
    const alarm = setTimeout(cancel, PATIENCE);
    let first: number | undefined;
    try {
      for await (const response of stream as AsyncIterable<WatchRevocationsResponse>) {
        const until = response.knownUntilTime!.getTime();
        first ??= until;
        // The first response was made after the request was sent. So whatever clocks show, and
        // however long this one took: all is known that was acknowledged before that long ago.
        // Dates are cut to milliseconds, so the difference may be one too large.
        this.learn(response, sent + (until - first) - 1);
        // Responses that stay late mean that the database's clock was set: a new stream helps.
        if (!response.complete || this.age() <= MAX_STALENESS) alarm.refresh();
      }
    } finally {
      clearTimeout(alarm);
      stop.removeEventListener("abort", cancel);
    }
  }

  private learn(response: WatchRevocationsResponse, known: number): void {
    for (const { sessionId, userId, keyId, revokeTime, expireTime } of response.revocations) {
      const forget = expireTime!.getTime() + CLOCK_SKEW * 1000;
      if (sessionId) this.sessions.set(sessionId, forget);
      if (keyId) {
        this.badKeys.set(keyId, forget);
        this.keysTime = -Infinity; // another key has taken over
      }
      if (userId) {
        const before = this.users.get(userId) ?? { second: 0, forget: 0 };
        const second = Math.floor(revokeTime!.getTime() / 1000);
        this.users.set(userId, {
          second: Math.max(before.second, second),
          forget: Math.max(before.forget, forget),
        });
      }
    }
    this.cursor = response.cursor;
    if (!response.complete) return; // a page of several: more comes at once
    this.knownUntil = Math.min(known, performance.now());
    this.forget();
  }
  // docs: end

  private forget(): void {
    const now = Date.now();
    if (now - this.swept < 60_000) return;
    this.swept = now;
    for (const [id, when] of this.sessions) if (when < now) this.sessions.delete(id);
    for (const [id, when] of this.badKeys) if (when < now) this.badKeys.delete(id);
    for (const [id, { forget }] of this.users) if (forget < now) this.users.delete(id);
  }
}

function keyOf(token: string): string {
  try {
    return decodeProtectedHeader(token).kid ?? "";
  } catch {
    throw new errors.JWTInvalid("not a JWT");
  }
}
