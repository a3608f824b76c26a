// Verifies access tokens without a call: with the published keys, and with what
// WatchRevocations says must no longer be accepted.

import authsvc.v1.AuthServiceGrpc;
import authsvc.v1.AuthServiceGrpc.AuthServiceBlockingStub;
import authsvc.v1.GetJwksRequest;
import authsvc.v1.Revocation;
import authsvc.v1.SessionServiceGrpc;
import authsvc.v1.SessionServiceGrpc.SessionServiceBlockingStub;
import authsvc.v1.WatchRevocationsRequest;
import authsvc.v1.WatchRevocationsResponse;
import com.google.gson.JsonParser;
import com.google.protobuf.Timestamp;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.StatusRuntimeException;
import io.jsonwebtoken.Claims;
import io.jsonwebtoken.JwsHeader;
import io.jsonwebtoken.JwtException;
import io.jsonwebtoken.Jwts;
import io.jsonwebtoken.security.Jwk;
import io.jsonwebtoken.security.Jwks;
import io.jsonwebtoken.security.PublicJwk;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Base64;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;

/** Holds the published keys and what was revoked. */
final class Verifier implements AutoCloseable {
    // docs: verify
    /** The verifier's knowledge is too old, so it may not decide by itself. */
    static final class Undecided extends Exception {
        Undecided(String message) {
            super(message);
        }
    }

    /** The token must not be accepted; the message is why. */
    static final class Refused extends Exception {
        Refused(String message) {
            super(message);
        }
    }

    private static final long SECOND = 1_000_000_000L;
    private static final long MAX_STALENESS = SECOND; // older knowledge decides nothing
    private static final long PATIENCE = 5 * SECOND; // for a stream that tells nothing new
    private static final long KEY_COOLDOWN = 5 * SECOND; // between two searches for a key
    private static final int CLOCK_SKEW = 5; // seconds, as in the service's tokens.clock_skew

    /**
     * Returns the claims of an access token that may be accepted. The thumbprint is the x5t#S256
     * of the certificate that the token came with, or empty.
     */
    Claims verify(String token, String thumbprint) throws Undecided, Refused {
        if (age() > MAX_STALENESS) {
            throw new Undecided("authsvc has not been heard of lately");
        }
        var jws = parse(token, this::key, issuer, audience, thumbprint);
        var claims = jws.claims();
        var event = users.get(claims.getSubject());
        var session = claims.get("sid", String.class); // a service's own token has none
        if (badKeys.containsKey(jws.header().getKeyId())
                || session != null && sessions.containsKey(session)
                || event != null && claims.getIssuedAt().getTime() / 1000 <= event.second()) {
            throw new Refused("SESSION_REVOKED");
        }
        return claims;
    }

    /** Finds a published key by its id, or throws Undecided. */
    interface Keys {
        Optional<Jwk<?>> find(String id) throws Undecided;
    }

    record Verified(JwsHeader header, Claims claims) {}

    /** Verifies everything about a token that can be seen from it and the keys. */
    static Verified parse(
            String token, Keys keys, String issuer, String audience, String thumbprint)
            throws Undecided, Refused {
        var key = keys.find(keyId(token)).orElseThrow(() -> new Refused("SIGNATURE_INVALID"));
        if (!(key instanceof PublicJwk<?> published)) {
            throw new Refused("SIGNATURE_INVALID");
        }
        try {
            var jws = Jwts.parser()
                    .verifyWith(published.toKey())
                    .requireIssuer(issuer)
                    .requireAudience(audience)
                    .clockSkewSeconds(CLOCK_SKEW)
                    .build()
                    .parseSignedClaims(token);
            var claims = jws.getPayload();
            // The key decides the algorithm, never the token.
            if (!"at+jwt".equals(jws.getHeader().getType())
                    || !jws.getHeader().getAlgorithm().equals(published.getAlgorithm())
                    || claims.getExpiration() == null
                    || claims.getIssuedAt() == null
                    || claims.getSubject() == null) {
                throw new Refused("MALFORMED");
            }
            if (claims.get("cnf") instanceof Map<?, ?> bound
                    && (thumbprint.isEmpty() || !thumbprint.equals(bound.get("x5t#S256")))) {
                throw new Refused("CERTIFICATE_MISMATCH");
            }
            return new Verified(jws.getHeader(), claims);
        } catch (JwtException | IllegalArgumentException error) {
            throw new Refused(error.getMessage());
        }
    }

    /** Returns how old the verifier's knowledge is, in nanoseconds. */
    long age() {
        return heard ? System.nanoTime() - knownUntil : Long.MAX_VALUE;
    }
    // docs: end

    private record UserEvent(long second, long forget) {}

    final AuthServiceBlockingStub auth;
    final String audience;
    private final String issuer;
    private final SessionServiceBlockingStub client;
    private volatile Map<String, Jwk<?>> keys = Map.of();
    private volatile long keysTime = System.nanoTime() - KEY_COOLDOWN;
    private long failedTime = keysTime; // when they could not be fetched
    private final Map<String, Long> sessions = new ConcurrentHashMap<>(); // with when to forget it
    private final Map<String, Long> badKeys = new ConcurrentHashMap<>();
    private final Map<String, UserEvent> users = new ConcurrentHashMap<>();
    private volatile boolean heard;
    private volatile long knownUntil; // on the monotonic clock
    private String cursor = "";
    private long swept;
    private final Object fetching = new Object();
    private final ScheduledExecutorService alarms = Executors.newSingleThreadScheduledExecutor();

    Verifier(Channel channel, String issuer, String audience) {
        this.auth = AuthServiceGrpc.newBlockingStub(channel);
        this.client = SessionServiceGrpc.newBlockingStub(channel);
        this.issuer = issuer;
        this.audience = audience;
    }

    // docs: keys
    /**
     * Finds a key, and fetches all again if it is not among them. Whoever sends unknown keys causes
     * one call in a while, even if it fails, and all who wait for it share it.
     */
    private Optional<Jwk<?>> key(String id) throws Undecided {
        if (!keys.containsKey(id)) {
            synchronized (fetching) {
                if (!keys.containsKey(id) && System.nanoTime() - keysTime >= KEY_COOLDOWN) {
                    if (System.nanoTime() - failedTime < KEY_COOLDOWN) {
                        throw new Undecided("the keys could not be fetched");
                    }
                    try {
                        var answer = auth.withDeadlineAfter(5, TimeUnit.SECONDS)
                                .getJwks(GetJwksRequest.getDefaultInstance());
                        keys = keysIn(answer.getJwksJson());
                    } catch (StatusRuntimeException | JwtException error) {
                        failedTime = System.nanoTime();
                        throw new Undecided("the keys can't be fetched: " + error.getMessage());
                    }
                    keysTime = System.nanoTime();
                }
            }
        }
        return Optional.ofNullable(keys.get(id));
    }

    /** Returns the keys of a JWK Set by their ids. */
    static Map<String, Jwk<?>> keysIn(String jwks) {
        return Jwks.setParser().build().parse(jwks).getKeys().stream()
                .collect(Collectors.toMap(Jwk::getId, key -> key));
    }
    // docs: end

    // docs: watch
    /**
     * Follows the revocations until its thread is interrupted. After an error it continues with the
     * cursor of the last response, on any replica.
     */
    void watch() throws InterruptedException {
        long pause = 100;
        while (!Thread.currentThread().isInterrupted()) {
            long began = System.nanoTime();
            try {
                follow();
            } catch (StatusRuntimeException error) {
                if (Connection.reasonOf(error).equals("CURSOR_TOO_OLD")) {
                    cursor = ""; // everything that may still matter is sent again
                }
            }
            if (System.nanoTime() - began > PATIENCE) {
                pause = 100;
            }
            // At a random time, so that verifiers don't all come back at once.
            Thread.sleep(ThreadLocalRandom.current().nextLong(pause));
            pause = Math.min(2 * pause, 5_000);
        }
    }

    private void follow() {
        var stream = Context.current().withCancellation();
        var fresh = new AtomicLong(System.nanoTime());
        Runnable cancelOld = () -> {
            if (System.nanoTime() - fresh.get() > PATIENCE) {
                stream.cancel(null);
            }
        };
        var alarm = alarms.scheduleWithFixedDelay(cancelOld, 1, 1, TimeUnit.SECONDS);
        try {
            stream.run(() -> read(fresh));
        } finally {
            alarm.cancel(false);
            stream.cancel(null);
        }
    }

    private void read(AtomicLong fresh) {
        long sent = System.nanoTime();
        Long first = null;
        var request = WatchRevocationsRequest.newBuilder().setCursor(cursor).build();
        var responses = client.watchRevocations(request);
        while (responses.hasNext()) {
            var response = responses.next();
            long until = nanos(response.getKnownUntilTime());
            first = first == null ? until : first;
            // The first response was made after the request was sent. So whatever clocks show, and
            // however long this one took: all is known that was acknowledged before that long ago.
            learn(response, sent + (until - first));
            // Responses that stay late mean that the database's clock was set: a new stream helps.
            if (!response.getComplete() || age() <= MAX_STALENESS) {
                fresh.set(System.nanoTime());
            }
        }
    }

    private void learn(WatchRevocationsResponse response, long known) {
        for (Revocation ended : response.getRevocationsList()) {
            long second = ended.getRevokeTime().getSeconds();
            long forget = ended.getExpireTime().getSeconds() + CLOCK_SKEW;
            switch (ended.getSubjectCase()) {
                case SESSION_ID -> sessions.put(ended.getSessionId(), forget);
                case KEY_ID -> {
                    badKeys.put(ended.getKeyId(), forget);
                    keysTime = System.nanoTime() - KEY_COOLDOWN; // another key has taken over
                }
                case USER_ID -> users.merge(
                        ended.getUserId(),
                        new UserEvent(second, forget),
                        (one, other) -> new UserEvent(
                                Math.max(one.second(), other.second()),
                                Math.max(one.forget(), other.forget())));
                default -> {}
            }
        }
        cursor = response.getCursor();
        if (response.getComplete()) { // otherwise a page of several: more comes at once
            long now = System.nanoTime();
            knownUntil = known - now > 0 ? now : known;
            heard = true;
            forget();
        }
    }
    // docs: end

    private void forget() {
        long now = Instant.now().getEpochSecond();
        if (now - swept >= 60) {
            swept = now;
            sessions.values().removeIf(when -> when < now);
            badKeys.values().removeIf(when -> when < now);
            users.values().removeIf(event -> event.forget() < now);
        }
    }

    @Override
    public void close() {
        alarms.shutdownNow();
    }

    private static String keyId(String token) throws Refused {
        try {
            var header = Base64.getUrlDecoder().decode(token.substring(0, token.indexOf('.')));
            var members = JsonParser.parseString(new String(header, StandardCharsets.UTF_8));
            return members.getAsJsonObject().get("kid").getAsString();
        } catch (RuntimeException malformed) {
            throw new Refused("MALFORMED");
        }
    }

    private static long nanos(Timestamp time) {
        return time.getSeconds() * SECOND + time.getNanos();
    }
}
