package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.generate.GenerationOptions;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.net.SocketException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Timeout(120)
class ServiceTest {
    /** Longer than any test waits. */
    private static final String ENDLESS = "{\"prompt_ids\":[1],\"max_tokens\":100000000,\"ignore_eos\":true,\"stream\":true}";

    private final HttpClient client = HttpClient.newHttpClient();
    private LlamaModel model;
    private Service service;

    @BeforeEach
    void start() throws IOException {
        model = LlamaModel.open(Samples.fixture("gguf/f32.gguf"), ModelOptions.defaults().withContextLength(1 << 20));
        service = new Service(model, 0);
    }

    @AfterEach
    void stop() {
        client.shutdownNow();
        service.close();
        model.close();
    }

    @Test
    void requestsAtOnceGetWhatEachWouldGetAlone() {
        List<String> prompts = List.of("Once upon a time", "The sea", "a b c", "One day", "Twice", "x", "An end", "12");
        List<String> alone = prompts.stream().map(prompt -> model.generate(prompt, options(prompt)).text()).toList();

        List<CompletableFuture<HttpResponse<String>>> answers = new ArrayList<>();
        for (int i = 0; i < prompts.size(); i++) {
            answers.add(client.sendAsync(request(body(prompts.get(i), i % 2 == 0)), BodyHandlers.ofString(StandardCharsets.UTF_8)));
        }

        for (int i = 0; i < prompts.size(); i++) {
            HttpResponse<String> answer = answers.get(i).join();
            assertThat(answer.statusCode()).isEqualTo(200);
            assertThat(i % 2 == 0 ? answer.body() : Samples.json(answer.body()).get("text").asText()).isEqualTo(alone.get(i));
        }
    }

    private static GenerationOptions options(String prompt) {
        return GenerationOptions.builder().maxTokens(30).temperature(0.9).topP(0.95).seed(prompt.length()).build();
    }

    private static String body(String prompt, boolean stream) {
        return "{\"prompt\":\"%s\",\"max_tokens\":30,\"temperature\":0.9,\"top_p\":0.95,\"seed\":%d,\"stream\":%b}"
                .formatted(prompt, prompt.length(), stream);
    }

    @Test
    void anAnswerSaysWhatItIsMadeOf() throws Exception {
        JsonNode json = Samples.json(send("{\"prompt_ids\":[1,2,3],\"max_tokens\":2,\"stop\":[\"never\"]}").body());

        assertThat(json.fieldNames()).toIterable().containsExactly("prompt_tokens", "tokens", "text", "finish_reason");
        assertThat(json.get("prompt_tokens").asInt()).isEqualTo(3);
        assertThat(json.get("tokens")).hasSizeBetween(1, 2);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "{\"prompt\":\"a\",\"max_token\":1}      | no field max_token",
        "{\"prompt\":\"a\"                       | a JSON object",
        "nonsense                                | a JSON object",
        "[]                                      | a JSON object",
        "''                                      | a JSON object",
        "null                                    | one of prompt and prompt_ids",
        "{}                                      | one of prompt and prompt_ids",
        "{\"prompt\":\"a\",\"prompt_ids\":[1]}   | one of prompt and prompt_ids",
        "{\"prompt\":\"\"}                       | prompt",
        "{\"prompt_ids\":[]}                     | prompt",
        "{\"prompt_ids\":[99999]}                | 99999",
        "{\"prompt\":\"a\",\"max_tokens\":0}     | maxTokens",
        "{\"prompt\":\"a\",\"max_tokens\":\"x\"} | a JSON object",
        "{\"prompt\":\"a\",\"temperature\":-1}   | temperature",
        "{\"prompt\":\"a\",\"stop\":[\"\"]}      | stop"})
    void aBadRequestIsToldInOneSentence(String body, String words) throws Exception {
        HttpResponse<String> answer = send(body);

        assertThat(answer.statusCode()).isEqualTo(400);
        assertThat(Samples.json(answer.body()).get("error").asText()).contains(words).doesNotContain("\n");
    }

    @Test
    void onlyPostsOfReasonableSizeAreTaken() throws Exception {
        HttpRequest get = HttpRequest.newBuilder(uri()).build();
        assertThat(client.send(get, BodyHandlers.ofString()).statusCode()).isEqualTo(405);

        String large = "{\"prompt\":\"" + "a".repeat(1 << 20) + "\"}";
        HttpResponse<String> answer = send(large);
        assertThat(answer.statusCode()).isEqualTo(413);
        assertThat(answer.body()).contains("1048576 bytes");
    }

    @Test
    void itListensOnTheLoopbackAddressAlone() {
        assertThat(service.address().getAddress().isLoopbackAddress()).isTrue();
    }

    /** As many endless streams as there are places: the next request is turned away until their clients are gone. */
    @Test
    void aClientThatLeavesFreesItsPlace() throws Exception {
        List<Socket> clients = new ArrayList<>();
        for (int i = 0; i < 16; i++) {
            clients.add(openStream());
        }
        assertThat(send("{\"prompt_ids\":[1],\"max_tokens\":1}").statusCode()).isEqualTo(503);

        for (Socket socket : clients) {
            socket.close();
        }
        while (send("{\"prompt_ids\":[1],\"max_tokens\":1}").statusCode() != 200) {
            Thread.sleep(20);
        }
    }

    @Test
    void closingEndsAStreamThatWouldNotEnd() throws Exception {
        try (Socket socket = openStream()) {
            CompletableFuture<Void> closing = CompletableFuture.runAsync(service::close);
            InputStream in = socket.getInputStream();
            while (in.read() >= 0) {
                // What is generated until then.
            }
            closing.join();
        } catch (SocketException reset) {
            // Also an end.
        }
        assertThat(model.generate("a", GenerationOptions.builder().maxTokens(1).build()).tokens()).as("the model still works").hasSize(1);
    }

    /** Nothing is written before the end of an answer that does not stream, so no failing write can end it. */
    @Test
    void closingEndsAnAnswerThatWouldNotEnd() {
        client.sendAsync(request(ENDLESS.replace(",\"stream\":true", "")), BodyHandlers.ofString());
        while (service.active() == 0) {
            Thread.onSpinWait();
        }
        service.close();

        assertThat(service.active()).isZero();
    }

    @Test
    void closingLetsARequestFinish() {
        CompletableFuture<HttpResponse<String>> answer =
                client.sendAsync(request("{\"prompt_ids\":[1],\"max_tokens\":200,\"temperature\":2}"), BodyHandlers.ofString());
        while (service.active() == 0 && !answer.isDone()) {
            Thread.onSpinWait();
        }
        service.close();

        assertThat(Samples.json(answer.join().body()).get("finish_reason").asText()).isNotEqualTo("cancelled");
    }

    /** Opens a stream and waits for its first text. */
    private Socket openStream() throws IOException {
        Socket socket = new Socket(InetAddress.getLoopbackAddress(), service.address().getPort());
        socket.setSoTimeout((int) Duration.ofSeconds(60).toMillis());
        socket.getOutputStream().write(("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + ENDLESS.length() + "\r\n\r\n"
                + ENDLESS).getBytes(StandardCharsets.US_ASCII));
        byte[] status = socket.getInputStream().readNBytes("HTTP/1.1 200".length());
        assertThat(new String(status, StandardCharsets.US_ASCII)).isEqualTo("HTTP/1.1 200");
        return socket;
    }

    private HttpResponse<String> send(String body) throws IOException, InterruptedException {
        return client.send(request(body), BodyHandlers.ofString(StandardCharsets.UTF_8));
    }

    private HttpRequest request(String body) {
        return HttpRequest.newBuilder(uri()).POST(HttpRequest.BodyPublishers.ofString(body)).build();
    }

    private URI uri() {
        return URI.create("http://localhost:" + service.address().getPort() + "/generate");
    }
}
