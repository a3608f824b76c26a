// Walks through a client's life, and prints a line for each step.
//
// A step that waits for the test prints "name value" and reads a line.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import { call, connect, reasonOf, repeated } from "./connect";
import {
  AuthServiceClient,
  LoginRequest,
  RefreshTokensRequest,
  RegisterRequest,
  ValidateTokenRequest,
} from "./gen/typescript/authsvc/v1/auth_service";
import type { ClientContext, Tokens } from "./gen/typescript/authsvc/v1/common";
import { check, Refused, Undecided, Verifier } from "./verifier";

const {
  AUTHSVC_ADDRESS: address = "",
  AUTHSVC_CA: authority = "",
  AUTHSVC_CERT: certificate = "",
  AUTHSVC_KEY: key = "",
  AUTHSVC_ISSUER: issuer = "",
  AUTHSVC_AUDIENCE: audience = "",
  AUTHSVC_TOKENS: prepared = "",
  AUTHSVC_UNKNOWN_KEY: unknownKey = "",
} = process.env;

const EMAIL = "typescript@example.com";
const PASSWORD = "Correct-Horse-7-Battery";
const CLIENT = { ip: "203.0.113.7", userAgent: "polyglot", deviceId: "device" };
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// docs: login
// fromPartial fills in what is left out, also what a later version of the protos adds.
function register(auth: AuthServiceClient, email: string, password: string, client: ClientContext) {
  return call(auth, auth.register, RegisterRequest.fromPartial({ email, password, client }));
}

async function logIn(
  auth: AuthServiceClient,
  email: string,
  password: string,
  client: ClientContext,
  seconds = 5,
): Promise<Tokens> {
  const request = LoginRequest.fromPartial({ email, password, client });
  const { tokens } = await repeated(() => call(auth, auth.login, request, seconds));
  if (!tokens) throw new Error("a second factor is needed: continue with verifyMfa");
  return tokens;
}

async function refresh(auth: AuthServiceClient, refreshToken: string): Promise<Tokens> {
  const request = RefreshTokensRequest.fromPartial({ refreshToken });
  return (await repeated(() => call(auth, auth.refreshTokens, request))).tokens!;
}
// docs: end

// docs: away
/**
 * Verifies a token without a call, and asks the service when the verifier may not decide. If that
 * fails too, so does the request: nothing is accepted because nobody could be asked.
 */
async function authenticate(verifier: Verifier, accessToken: string): Promise<void> {
  try {
    await verifier.verify(accessToken);
  } catch (error) {
    if (!(error instanceof Undecided)) throw error;
    const request = ValidateTokenRequest.fromPartial({ accessToken, audience: verifier.audience });
    const answer = await call(verifier.auth, verifier.auth.validateToken, request, 1);
    if (!answer.active) throw new Refused(String(answer.inactiveReason));
  }
}
// docs: end

async function main(): Promise<void> {
  const { auth, sessions } = connect(address, authority, certificate, key);
  say("registered", (await register(auth, EMAIL, PASSWORD, CLIENT)).userId);
  const again = () => logIn(auth, EMAIL, PASSWORD, CLIENT);
  let tokens = await again();
  say("logged_in", tokens.sessionId);
  say("wrong_password", reasonOf(await failure(logIn(auth, EMAIL, "wrong", CLIENT))));
  say("deadline", codeOf(await failure(logIn(auth, EMAIL, PASSWORD, CLIENT, 0.001))));
  tokens = await refresh(auth, tokens.refreshToken);
  say("refreshed", tokens.sessionId);

  await checkTokens();

  const verifier = new Verifier(auth, sessions, issuer, audience);
  say("before_watching", await outcome(verifier, tokens));
  let stop = new AbortController();
  const watching = verifier.watch(stop.signal);
  say("unknown_keys", await storm(verifier, tokens));
  await ask("mend_keys", "");
  say("verified", await become(verifier, tokens, "accepted"));

  await ask("revoke_session", tokens.sessionId);
  say("revoked", await become(verifier, tokens, "SESSION_REVOKED"));
  await ask("refuse_calls", "");

  // The stream is cut, a session ends meanwhile, and the stream continues with its cursor.
  tokens = await again();
  say("another", await become(verifier, tokens, "accepted"));
  stop.abort();
  await watching;
  await ask("revoke_unseen", tokens.sessionId);
  stop = new AbortController();
  void verifier.watch(stop.signal);
  say("resumed", await become(verifier, tokens, "SESSION_REVOKED"));

  tokens = await again();
  say("third", await become(verifier, tokens, "accepted"));
  await ask("end_user", tokens.userId);
  say("user_ended", await become(verifier, tokens, "SESSION_REVOKED"));
  tokens = await again();
  say("later_token", await become(verifier, tokens, "accepted"));

  await ask("revoke_key", "");
  say("key_revoked", await become(verifier, tokens, "SESSION_REVOKED"));
  tokens = await again();
  say("another_key", await become(verifier, tokens, "accepted"));

  await ask("stop_service", "");
  say("away", await become(verifier, tokens, "undecided"));
  say("asked", codeOf(await failure(authenticate(verifier, tokens.accessToken))));
  process.exit(0);
}

/** Says of each token that the test has prepared whether it is accepted. */
async function checkTokens(): Promise<void> {
  for (const { name, token, jwks } of JSON.parse(readFileSync(prepared, "utf8"))) {
    const verdict = await check(token, JSON.parse(jwks), issuer, audience).then(
      () => "accepted",
      (error) => {
        console.error(name, String(error));
        return "refused";
      },
    );
    say(`token ${name}`, verdict);
  }
}

/** Verifies until the outcome is the expected one; the test has a time limit. */
async function become(verifier: Verifier, tokens: Tokens, expected: string): Promise<string> {
  let last = "";
  for (;;) {
    const found = await outcome(verifier, tokens);
    if (found === expected) return found;
    if (found !== last) console.error(found);
    last = found;
    await sleep(20);
  }
}

/** Verifies many tokens of a key that does not exist, once the verifier knows enough. */
async function storm(verifier: Verifier, tokens: Tokens): Promise<string> {
  while (verifier.age() > 1_000) await sleep(20);
  const { accessToken } = tokens;
  const unknown = unknownKey + accessToken.slice(accessToken.indexOf("."));
  for (let number = 0; number < 20; number++) {
    const found = await outcome(verifier, { accessToken: unknown });
    if (found !== "undecided") return found;
  }
  return "undecided";
}

function outcome(verifier: Verifier, tokens: Pick<Tokens, "accessToken">): Promise<string> {
  return verifier.verify(tokens.accessToken).then(
    () => "accepted",
    (error: Error) => (error instanceof Undecided ? "undecided" : error.message),
  );
}

function failure(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => undefined,
    (error: unknown) => error,
  );
}

function codeOf(error: unknown): string {
  return status[(error as { code: number }).code];
}

async function ask(what: string, about: string): Promise<void> {
  say(what, about);
  if ((await input.next()).done) process.exit(1);
}

function say(name: string, value: string): void {
  console.log(`${name} ${value}`);
}

void main();
