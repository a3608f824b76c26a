// Walks through a client's life, and prints a line for each step.
//
// A step that waits for the test prints "name value" and reads a line.

import authsvc.v1.AuthServiceGrpc;
import authsvc.v1.AuthServiceGrpc.AuthServiceBlockingStub;
import authsvc.v1.ClientContext;
import authsvc.v1.LoginRequest;
import authsvc.v1.RefreshTokensRequest;
import authsvc.v1.RegisterRequest;
import authsvc.v1.RegisterResponse;
import authsvc.v1.Tokens;
import authsvc.v1.ValidateTokenRequest;
import com.google.gson.Gson;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

final class Main {
    private static final String EMAIL = "java@example.com";
    private static final String PASSWORD = "Correct-Horse-7-Battery";
    private static final ClientContext CLIENT = ClientContext.newBuilder()
            .setIp("203.0.113.7")
            .setUserAgent("polyglot")
            .setDeviceId("device")
            .build();
    private static final BufferedReader INPUT =
            new BufferedReader(new InputStreamReader(System.in));

    // docs: login
    static RegisterResponse register(
            AuthServiceBlockingStub auth, String email, String password, ClientContext client) {
        var request = RegisterRequest.newBuilder()
                .setEmail(email)
                .setPassword(password)
                .setClient(client)
                .build();
        return auth.withDeadlineAfter(5, TimeUnit.SECONDS).register(request);
    }

    static Tokens logIn(
            AuthServiceBlockingStub auth, String email, String password, ClientContext client) {
        var request = LoginRequest.newBuilder()
                .setEmail(email)
                .setPassword(password)
                .setClient(client)
                .build();
        var limited = auth.withDeadlineAfter(5, TimeUnit.SECONDS);
        var answer = Connection.repeated(() -> limited.login(request));
        if (!answer.hasTokens()) {
            throw new IllegalStateException("a second factor is needed: continue with verifyMfa");
        }
        return answer.getTokens();
    }

    static Tokens refresh(AuthServiceBlockingStub auth, String refreshToken) {
        var request = RefreshTokensRequest.newBuilder().setRefreshToken(refreshToken).build();
        var limited = auth.withDeadlineAfter(5, TimeUnit.SECONDS);
        return Connection.repeated(() -> limited.refreshTokens(request)).getTokens();
    }
    // docs: end

    // docs: away
    /**
     * Verifies a token without a call, and asks the service when the verifier may not decide. If
     * that fails too, so does the request: nothing is accepted because nobody could be asked.
     */
    static void authenticate(Verifier verifier, String token) throws Verifier.Refused {
        try {
            verifier.verify(token, "");
        } catch (Verifier.Undecided undecided) {
            var request = ValidateTokenRequest.newBuilder()
                    .setAccessToken(token)
                    .setAudience(verifier.audience)
                    .build();
            var answer = verifier.auth.withDeadlineAfter(1, TimeUnit.SECONDS).validateToken(request);
            if (!answer.getActive()) {
                throw new Verifier.Refused(answer.getInactiveReason().name());
            }
        }
    }
    // docs: end

    public static void main(String[] arguments) throws Exception {
        var channel = Connection.open(
                get("ADDRESS"), get("CA"), get("CERT"), get("KEY"));
        var auth = AuthServiceGrpc.newBlockingStub(channel);
        say("registered", register(auth, EMAIL, PASSWORD, CLIENT).getUserId());
        var tokens = logIn(auth, EMAIL, PASSWORD, CLIENT);
        say("logged_in", tokens.getSessionId());
        say("wrong_password", Connection.reasonOf(failure(() -> logIn(auth, EMAIL, "no", CLIENT))));
        var login = LoginRequest.newBuilder().setEmail(EMAIL).setPassword(PASSWORD).build();
        say("deadline", codeOf(failure(
                () -> auth.withDeadlineAfter(1, TimeUnit.MILLISECONDS).login(login))));
        tokens = refresh(auth, tokens.getRefreshToken());
        say("refreshed", tokens.getSessionId());

        checkTokens();

        var verifier = new Verifier(channel, get("ISSUER"), get("AUDIENCE"));
        say("before_watching", outcome(verifier, tokens));
        var watching = watch(verifier);
        say("unknown_keys", storm(verifier, tokens));
        ask("mend_keys", "");
        say("verified", become(verifier, tokens, "accepted"));

        ask("revoke_session", tokens.getSessionId());
        say("revoked", become(verifier, tokens, "SESSION_REVOKED"));
        ask("refuse_calls", "");

        // The stream is cut, a session ends meanwhile, and the stream continues with its cursor.
        tokens = logIn(auth, EMAIL, PASSWORD, CLIENT);
        say("another", become(verifier, tokens, "accepted"));
        watching.interrupt();
        watching.join();
        ask("revoke_unseen", tokens.getSessionId());
        watch(verifier);
        say("resumed", become(verifier, tokens, "SESSION_REVOKED"));

        tokens = logIn(auth, EMAIL, PASSWORD, CLIENT);
        say("third", become(verifier, tokens, "accepted"));
        ask("end_user", tokens.getUserId());
        say("user_ended", become(verifier, tokens, "SESSION_REVOKED"));
        tokens = logIn(auth, EMAIL, PASSWORD, CLIENT);
        say("later_token", become(verifier, tokens, "accepted"));

        ask("revoke_key", "");
        say("key_revoked", become(verifier, tokens, "SESSION_REVOKED"));
        tokens = logIn(auth, EMAIL, PASSWORD, CLIENT);
        say("another_key", become(verifier, tokens, "accepted"));

        ask("stop_service", "");
        say("away", become(verifier, tokens, "undecided"));
        var token = tokens.getAccessToken();
        say("asked", codeOf(failure(() -> authenticate(verifier, token))));
        System.exit(0);
    }

    private static Thread watch(Verifier verifier) {
        var thread = new Thread(() -> {
            try {
                verifier.watch();
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        });
        thread.start();
        return thread;
    }

    private record Case(String name, String token, String jwks) {}

    /** Says of each token that the test has prepared whether it is accepted. */
    private static void checkTokens() throws Exception {
        var text = Files.readString(Path.of(get("TOKENS")));
        for (Case each : new Gson().fromJson(text, Case[].class)) {
            var keys = Verifier.keysIn(each.jwks());
            var verdict = "accepted";
            try {
                Verifier.parse(
                        each.token(), id -> Optional.ofNullable(keys.get(id)),
                        get("ISSUER"), get("AUDIENCE"), "");
            } catch (Verifier.Refused refused) {
                System.err.println(each.name() + ": " + refused.getMessage());
                verdict = "refused";
            }
            say("token " + each.name(), verdict);
        }
    }

    /** Verifies until the outcome is the expected one; the test has a time limit. */
    private static String become(Verifier verifier, Tokens tokens, String expected)
            throws InterruptedException {
        var last = "";
        while (true) {
            var found = outcome(verifier, tokens);
            if (found.equals(expected)) {
                return found;
            }
            if (!found.equals(last)) {
                System.err.println(found);
                last = found;
            }
            Thread.sleep(20);
        }
    }

    /** Verifies many tokens of a key that does not exist, once the verifier knows enough. */
    private static String storm(Verifier verifier, Tokens tokens) throws InterruptedException {
        while (verifier.age() > 1_000_000_000L) {
            Thread.sleep(20);
        }
        var token = tokens.getAccessToken();
        var unknown = get("UNKNOWN_KEY") + token.substring(token.indexOf('.'));
        for (var number = 0; number < 20; number++) {
            var found = outcome(verifier, unknown);
            if (!found.equals("undecided")) {
                return found;
            }
        }
        return "undecided";
    }

    private static String outcome(Verifier verifier, Tokens tokens) {
        return outcome(verifier, tokens.getAccessToken());
    }

    private static String outcome(Verifier verifier, String token) {
        try {
            verifier.verify(token, "");
            return "accepted";
        } catch (Verifier.Undecided undecided) {
            return "undecided";
        } catch (Verifier.Refused refused) {
            return refused.getMessage();
        }
    }

    private interface Work {
        void run() throws Exception;
    }

    private static Exception failure(Work work) {
        try {
            work.run();
        } catch (Exception error) {
            return error;
        }
        throw new IllegalStateException("it has to fail");
    }

    private static String codeOf(Exception error) {
        return ((StatusRuntimeException) error).getStatus().getCode().name();
    }

    private static void ask(String what, String about) throws Exception {
        say(what, about);
        if (INPUT.readLine() == null) {
            System.exit(1);
        }
    }

    private static String get(String name) {
        return System.getenv("AUTHSVC_" + name);
    }

    private static void say(String name, String value) {
        System.out.println(name + " " + value);
    }
}
