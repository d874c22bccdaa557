package io.puna.examples;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.exc.UnrecognizedPropertyException;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.puna.LlamaModel;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.generate.TokenStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/**
 * A minimal service: {@code POST /generate} with {@code {"prompt": "Once upon a time", "max_tokens": 64}} answers with JSON or, with
 * {@code "stream": true}, with the text as it is generated. A virtual thread and a session for each request; the model takes their
 * steps in turn. A client that leaves a stream ends its generation. Listens on the loopback address alone.
 */
public final class Service implements AutoCloseable {
    private static final String PATH = "/generate";
    private static final int DEFAULT_PORT = 8080;
    private static final int MAX_BODY_BYTES = 1 << 20;
    /** Each request has a cache of its own: this bounds their memory. */
    private static final int MAX_REQUESTS = 16;
    private static final int GRACE_SECONDS = 5;

    private final LlamaModel model;
    private final HttpServer server;
    private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();
    private final Semaphore slots = new Semaphore(MAX_REQUESTS);

    /** What a client sends: a text or tokens, and any of the options. */
    record Request(@Nullable String prompt, int @Nullable [] promptIds, @Nullable Integer maxTokens, @Nullable Double temperature,
            @Nullable Double topP, @Nullable Long seed, @Nullable List<String> stop, boolean ignoreEos, boolean stream) {
        GenerationOptions options() {
            GenerationOptions.Builder options = GenerationOptions.builder().ignoreEos(ignoreEos);
            if (maxTokens != null) {
                options.maxTokens(maxTokens);
            }
            if (temperature != null) {
                options.temperature(temperature);
            }
            if (topP != null) {
                options.topP(topP);
            }
            if (seed != null) {
                options.seed(seed);
            }
            if (stop != null) {
                options.stop(stop);
            }
            return options.build();
        }
    }

    /** What a client gets that does not stream. */
    record Answer(int promptTokens, List<Integer> tokens, String text, String finishReason) {
    }

    /** What a client gets instead, in one sentence. */
    record Refusal(String error) {
    }

    /** Listens at once. The model is borrowed and must outlive the service. Port 0 takes any that is free. */
    Service(LlamaModel model, int port) throws IOException {
        this.model = model;
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.createContext(PATH, this::handle);
        server.setExecutor(threads);
        server.start();
    }

    /** Serves a model until the process is told to end. */
    public static void main(String[] args) throws IOException {
        if (args.length < 1 || args.length > 2) {
            System.err.println("usage: Service MODEL [PORT]");
            System.exit(ExitCode.USAGE);
        }
        System.setProperty("sun.net.httpserver.nodelay", "true"); // a token is a small packet that should not wait for the next
        LlamaModel model = LlamaModel.open(Path.of(args[0]));
        Service service = new Service(model, args.length == 2 ? Integer.parseInt(args[1]) : DEFAULT_PORT);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            service.close();
            model.close();
        }, "service-shutdown"));
        System.err.println("listening on http:/" + service.address() + PATH);
    }

    InetSocketAddress address() {
        return server.getAddress();
    }

    /** {@return the requests being served} */
    int active() {
        return MAX_REQUESTS - slots.availablePermits();
    }

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            if (!exchange.getRequestMethod().equals("POST")) {
                exchange.getResponseHeaders().set("Allow", "POST");
                answer(exchange, 405, new Refusal("method: expected POST, got " + exchange.getRequestMethod()));
            } else if (!slots.tryAcquire()) {
                answer(exchange, 503, new Refusal("busy with " + MAX_REQUESTS + " requests; try again later"));
            } else {
                try {
                    generate(exchange);
                } finally {
                    slots.release();
                }
            }
        }
    }

    private void generate(HttpExchange exchange) throws IOException {
        byte[] body = exchange.getRequestBody().readNBytes(MAX_BODY_BYTES + 1);
        if (body.length > MAX_BODY_BYTES) {
            answer(exchange, 413, new Refusal("body: expected at most " + MAX_BODY_BYTES + " bytes, got more"));
            return;
        }
        try (Session session = model.newSession()) {
            Request request;
            TokenStream tokens;
            try {
                request = Json.MAPPER.readValue(body, Request.class);
                tokens = start(session, request);
            } catch (UnrecognizedPropertyException e) {
                answer(exchange, 400, new Refusal("body: there is no field " + e.getPropertyName()));
                return;
            } catch (JsonProcessingException e) {
                answer(exchange, 400, new Refusal("body: expected a JSON object, got none: " + e.getOriginalMessage()));
                return;
            } catch (IllegalArgumentException | IndexOutOfBoundsException | IllegalStateException e) {
                answer(exchange, 400, new Refusal(e.getMessage()));
                return;
            }
            if (request.stream) {
                stream(exchange, tokens);
            } else {
                answer(exchange, 200, drain(tokens));
            }
        }
    }

    private static TokenStream start(Session session, @Nullable Request request) {
        if (request == null || (request.prompt == null) == (request.promptIds == null)) {
            throw new IllegalArgumentException("body: expected one of prompt and prompt_ids");
        }
        return request.prompt != null ? session.stream(request.prompt, request.options())
                : session.stream(request.promptIds, request.options());
    }

    /** Sends text as soon as it is certain. A client that is gone makes the write fail, and with it the generation end. */
    private static void stream(HttpExchange exchange, TokenStream tokens) throws IOException {
        exchange.getResponseHeaders().set("Content-Type", "text/plain; charset=utf-8");
        exchange.sendResponseHeaders(200, 0);
        OutputStream out = exchange.getResponseBody();
        while (tokens.hasNext()) {
            out.write(tokens.next().text().getBytes(StandardCharsets.UTF_8));
            out.flush();
        }
        out.close();
    }

    private static Answer drain(TokenStream tokens) {
        while (tokens.hasNext()) {
            tokens.next();
        }
        GenerationResult result = tokens.result();
        return new Answer(result.promptTokens().size(), result.tokens(), result.text(),
                result.finishReason().name().toLowerCase(Locale.ROOT));
    }

    private static void answer(HttpExchange exchange, int status, Object value) throws IOException {
        byte[] json = Json.write(value).getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, json.length);
        exchange.getResponseBody().write(json);
    }

    /** Takes no more requests, gives those that run a few seconds, then ends them at their next token. */
    @Override
    public void close() {
        server.stop(GRACE_SECONDS);
        threads.shutdownNow();
        try {
            threads.awaitTermination(GRACE_SECONDS, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
