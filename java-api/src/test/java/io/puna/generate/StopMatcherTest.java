package io.puna.generate;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class StopMatcherTest {
    @Test
    void withoutStopStringsTextPassesAtOnce() {
        StopMatcher matcher = new StopMatcher(List.of());
        assertThat(matcher.accept("some ")).isEqualTo("some ");
        assertThat(matcher.finish()).isEmpty();
    }

    @Test
    void aStopStringAcrossPiecesIsHeldBackAndLeftOut() {
        StopMatcher matcher = new StopMatcher(List.of("\n\nUser:"));
        assertThat(matcher.accept("yes.\n")).isEqualTo("yes.");
        assertThat(matcher.accept("\nUs")).isEmpty();
        assertThat(matcher.accept("er: and more")).isEmpty();
        assertThat(matcher.matched()).isTrue();
        assertThat(matcher.finish()).isEmpty();
    }

    @Test
    void whatOnlyBeganLikeAStopStringIsGivenBack() {
        StopMatcher matcher = new StopMatcher(List.of("abcd"));
        assertThat(matcher.accept("xab")).isEqualTo("x");
        assertThat(matcher.accept("ce")).isEqualTo("abce");
        assertThat(matcher.accept("abc")).isEmpty();
        assertThat(matcher.finish()).isEqualTo("abc");
        assertThat(matcher.matched()).isFalse();
    }

    @Test
    void theFirstOfSeveralStopStringsCounts() {
        StopMatcher matcher = new StopMatcher(List.of("world", "lo w"));
        assertThat(matcher.accept("hello world")).isEqualTo("hel");
    }

    @Test
    void anyCuttingOfATextGivesWhatTheWholeGives() {
        Random random = new Random(5);
        for (int round = 0; round < 2000; round++) {
            StringBuilder whole = new StringBuilder();
            for (int i = 0; i < 12; i++) {
                whole.append("ab".charAt(random.nextInt(2)));
            }
            List<String> stops = List.of("aab", "babb", "bbbb");
            int end = stops.stream().mapToInt(whole::indexOf).filter(at -> at >= 0).min().orElse(whole.length());
            // A longer stop string may be completed only after a shorter one began later; the text ends at whichever is complete first.
            StopMatcher matcher = new StopMatcher(stops);
            StringBuilder out = new StringBuilder();
            for (int at = 0; at < whole.length() && !matcher.matched();) {
                int next = Math.min(whole.length(), at + 1 + random.nextInt(3));
                out.append(matcher.accept(whole.substring(at, next)));
                at = next;
            }
            out.append(matcher.finish());
            if (matcher.matched()) {
                assertThat(whole.toString()).startsWith(out.toString());
                String rest = whole.substring(out.length());
                assertThat(stops).anyMatch(rest::startsWith);
            } else {
                assertThat(out.toString()).isEqualTo(whole.toString());
                assertThat(end).isEqualTo(whole.length());
            }
        }
    }
}
