// Opens the channel: mutual TLS, every replica, retries of what may be repeated.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { credentials, Deadline, Metadata, ServiceError } from "@grpc/grpc-js";
import { AuthServiceClient } from "./gen/typescript/authsvc/v1/auth_service";
import { SessionServiceClient } from "./gen/typescript/authsvc/v1/session_service";

// docs: connect
/** Opens clients of every replica that the address NAME:PORT resolves to. */
export function connect(address: string, authority: string, certificate: string, key: string) {
  const secure = credentials.createSsl(
    readFileSync(authority),
    readFileSync(key),
    readFileSync(certificate),
  );
  const options = {
    "grpc.service_config": readFileSync("service-config.json", "utf8"),
    // Finds a dead connection under a stream that has become silent.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 5_000,
  };
  const auth = new AuthServiceClient(`dns:///${address}`, secure, options);
  // All clients share the channel, and so its connections.
  const channelOverride = auth.getChannel();
  const sessions = new SessionServiceClient(address, secure, { channelOverride });
  return { auth, sessions };
}

/** Makes a promise of a call, which fails after `seconds`. */
export function call<Request, Response>(
  client: object,
  method: (
    request: Request,
    metadata: Metadata,
    options: { deadline: Deadline },
    callback: (error: ServiceError | null, response: Response) => void,
  ) => unknown,
  request: Request,
  seconds = 5,
): Promise<Response> {
  const options = { deadline: Date.now() + seconds * 1000 };
  return new Promise((resolve, reject) => {
    method.call(client, request, new Metadata(), options, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}
// docs: end

// docs: errors
/**
 * Returns why a call failed: a name of ErrorReason without its prefix, such as
 * "CREDENTIALS_INVALID", or "" if the answer is not the service's own.
 */
export function reasonOf(error: unknown): string {
  return textOf(infoOf(error), 1);
}

/**
 * Calls again while the service refuses before anything is done, as replicas that stop do. So it
 * may be used for any call.
 */
export async function repeated<Response>(call: () => Promise<Response>): Promise<Response> {
  for (let pause = 100; ; pause *= 2) {
    try {
      return await call();
    } catch (error) {
      const metadata = (infoOf(error).get(3) ?? []).map(fieldsOf);
      const effect = metadata.find((entry) => textOf(entry, 1) === "effect");
      if (!effect || textOf(effect, 2) !== "none" || pause > 400) throw error;
    }
    await sleep((pause * (1 + Math.random())) / 2);
  }
}

/** Returns google.rpc.ErrorInfo: 1 is the reason, and 3 are the metadata. */
function infoOf(error: unknown): Fields {
  const [packed] = (error as ServiceError).metadata?.get("grpc-status-details-bin") ?? [];
  if (!(packed instanceof Uint8Array)) return new Map();
  // google.rpc.Status, whose details are of google.protobuf.Any.
  for (const detail of fieldsOf(packed).get(3) ?? []) {
    const any = fieldsOf(detail);
    if (textOf(any, 1).endsWith("/google.rpc.ErrorInfo")) {
      const info = fieldsOf(any.get(2)![0]);
      if (textOf(info, 2) === "authsvc") return info;
    }
  }
  return new Map();
}

type Fields = Map<number, Uint8Array[]>;

/** Reads the texts, bytes and messages in a message, by the numbers of their fields. */
function fieldsOf(message: Uint8Array): Fields {
  const reader = new BinaryReader(message);
  const found: Fields = new Map();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (type === WireType.LengthDelimited) {
      found.set(number, [...(found.get(number) ?? []), reader.bytes()]);
    } else {
      reader.skip(type);
    }
  }
  return found;
}

function textOf(fields: Fields, number: number): string {
  return new TextDecoder().decode(fields.get(number)?.[0]);
}
// docs: end
