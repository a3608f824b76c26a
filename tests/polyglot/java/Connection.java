// Opens the channel: mutual TLS, every replica, retries of what may be repeated.

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Supplier;

final class Connection {
    // docs: connect
    /** Opens a channel to every replica that the address NAME:PORT resolves to. */
    static ManagedChannel open(String address, String authority, String certificate, String key)
            throws IOException {
        var credentials = TlsChannelCredentials.newBuilder()
                .trustManager(new File(authority))
                .keyManager(new File(certificate), new File(key))
                .build();
        // All its numbers have to be of the type Double, as Gson makes them.
        @SuppressWarnings("unchecked")
        Map<String, Object> serviceConfig =
                new Gson().fromJson(Files.readString(Path.of("service-config.json")), Map.class);
        return Grpc.newChannelBuilder("dns:///" + address, credentials)
                .defaultServiceConfig(serviceConfig)
                .enableRetry()
                // Finds a dead connection under a stream that has become silent.
                .keepAliveTime(30, TimeUnit.SECONDS)
                .keepAliveTimeout(5, TimeUnit.SECONDS)
                .build();
    }
    // docs: end

    // docs: errors
    /**
     * Returns why a call failed: a name of ErrorReason without its prefix, such as
     * "CREDENTIALS_INVALID", or "" if the answer is not the service's own.
     */
    static String reasonOf(Throwable error) {
        return infoOf(error).getReason();
    }

    private static ErrorInfo infoOf(Throwable error) {
        var none = ErrorInfo.getDefaultInstance();
        var status = StatusProto.fromThrowable(error);
        if (status == null) {
            return none;
        }
        for (Any detail : status.getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                try {
                    var info = detail.unpack(ErrorInfo.class);
                    return info.getDomain().equals("authsvc") ? info : none;
                } catch (InvalidProtocolBufferException invalid) {
                    return none;
                }
            }
        }
        return none;
    }

    /**
     * Calls again while the service refuses before anything is done, as replicas that stop do. So it
     * may be used for any call.
     */
    static <Answer> Answer repeated(Supplier<Answer> call) {
        for (long pause = 100; ; pause *= 2) {
            try {
                return call.get();
            } catch (StatusRuntimeException error) {
                var effect = infoOf(error).getMetadataMap().get("effect");
                if (!"none".equals(effect) || pause > 400) {
                    throw error;
                }
            }
            var chosen = ThreadLocalRandom.current().nextLong(pause / 2, pause);
            LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(chosen));
        }
    }
    // docs: end

    private Connection() {}
}
