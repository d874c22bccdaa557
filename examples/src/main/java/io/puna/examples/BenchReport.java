package io.puna.examples;

import io.puna.examples.Contestant.Measure;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * What a benchmark of one model found.
 *
 * @param peakRssBytes null where the system does not say, or it would be another model's
 * @param busy         processes that wanted the processors in half of the runs; 0 if there was no such half
 */
record BenchReport(Path model, long weights, String backend, double loadMs, @Nullable Long peakRssBytes, List<Measure> measures,
        int busy, Side puna, List<Side> peers) {

    /** Tokens a second over all runs. */
    record Spread(double median, double min, double max) {
        static Spread of(double[] values) {
            double[] sorted = values.clone();
            Arrays.sort(sorted);
            int middle = sorted.length / 2;
            double median = sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
            return new Spread(Text.rate(median), Text.rate(sorted[0]), Text.rate(sorted[sorted.length - 1]));
        }
    }

    /**
     * What one side reached, measure by measure.
     *
     * @param busy while other processes wanted the processors; empty if there was no such half
     */
    record Side(String name, String build, List<Spread> quiet, List<Spread> busy) {
        /** How many times as fast as another this side is, median by median. */
        double ratio(Side other, int measure) {
            return Text.rate(quiet.get(measure).median / other.quiet.get(measure).median);
        }

        /** What remains of the speed of a quiet machine. */
        double share(int measure) {
            return Text.rate(busy.get(measure).median / quiet.get(measure).median);
        }
    }

    /** {@return the numbers of sequences at which Puna's tokens a second, all sequences together, are fewer than with fewer sequences} */
    List<Integer> falls() {
        List<Integer> falls = new ArrayList<>();
        for (int i = 1; i < measures.size(); i++) {
            Measure wider = measures.get(i);
            if (wider.sequences() > measures.get(i - 1).sequences() && puna.quiet.get(i).median < puna.quiet.get(i - 1).median) {
                falls.add(wider.sequences());
            }
        }
        return falls;
    }

    private boolean comparesWidths() {
        return measures.size() > 1 && measures.getLast().sequences() > 1;
    }

    /** {@return what --json prints} */
    Map<String, Object> json() {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("model", model.toString());
        json.put("load_ms", loadMs);
        put(json, puna, null);
        if (comparesWidths()) {
            json.put("falls_at", falls());
        }
        if (peakRssBytes != null) {
            json.put("peak_rss_bytes", peakRssBytes);
        }
        json.put("backend", backend);
        if (!peers.isEmpty()) {
            json.put("against", peers.stream().map(peer -> {
                Map<String, Object> member = new LinkedHashMap<>();
                member.put("program", peer.name);
                member.put("build", peer.build);
                put(member, peer, puna);
                return member;
            }).toList());
        }
        return json;
    }

    /** Each measure under its name, and how many times as fast Puna is; then the same of a busy machine. */
    private void put(Map<String, Object> json, Side side, @Nullable Side puna) {
        for (int i = 0; i < measures.size(); i++) {
            json.put(measures.get(i).name(), side.quiet.get(i));
            if (puna != null) {
                json.put(measures.get(i).name() + "_ratio", puna.ratio(side, i));
            }
        }
        if (busy > 0) {
            Map<String, Object> member = new LinkedHashMap<>();
            member.put("processes", busy);
            for (int i = 0; i < measures.size(); i++) {
                member.put(measures.get(i).name(), side.busy.get(i));
                member.put(measures.get(i).name() + "_share", side.share(i));
            }
            json.put("busy", member);
        }
    }

    /** Prints what people read. */
    void print(PrintWriter out) {
        out.printf("model    %s, %,d weights%n", model, weights);
        out.printf("backend  %s%n", backend);
        out.printf(Locale.ROOT, "load     %.1f ms%n", loadMs);
        if (peakRssBytes != null) {
            out.printf("memory   %s at its peak%n", Text.bytes(peakRssBytes));
        }
        out.printf("%n%-12s %7s %10s %10s %10s%n", "", "tokens", "median/s", "min/s", "max/s");
        rows(out, puna);
        if (comparesWidths()) {
            List<Integer> falls = falls();
            out.printf("%nWith more sequences in a step Puna's tokens a second %s%n",
                    falls.isEmpty() ? "never fall" : "fall, at " + join(falls));
        }
        for (Side peer : peers) {
            out.printf("%nagainst  %s%s%n%n", peer.name, peer.build.isEmpty() ? "" : ", build " + peer.build);
            rows(out, peer);
            List<String> ratios = new ArrayList<>();
            for (int i = 0; i < measures.size(); i++) {
                ratios.add(String.format(Locale.ROOT, i == 0 ? "%.2f times the other's in %s" : "%.2f times in %s", puna.ratio(peer, i),
                        measures.get(i).label()));
            }
            out.printf("%nPuna's median is %s%n", join(ratios));
        }
    }

    private void rows(PrintWriter out, Side side) {
        for (int i = 0; i < measures.size(); i++) {
            row(out, measures.get(i).label(), measures.get(i), side.quiet.get(i), "");
            if (busy > 0) {
                row(out, "  busy", measures.get(i), side.busy.get(i),
                        String.format(Locale.ROOT, "   %.0f %% with --busy %d", 100 * side.share(i), busy));
            }
        }
    }

    private static void row(PrintWriter out, String label, Measure measure, Spread spread, String remark) {
        out.printf(Locale.ROOT, "%-12s %7d %10.1f %10.1f %10.1f%s%n", label, measure.sequences() * measure.tokens(), spread.median,
                spread.min, spread.max, remark);
    }

    private static String join(List<?> values) {
        return values.stream().map(String::valueOf).collect(Collectors.joining(", "));
    }

    /** Prints a table in Markdown of runs with the same measures and peers, a row for each model and measure. */
    static void markdown(PrintWriter out, List<BenchReport> reports) {
        BenchReport first = reports.getFirst();
        List<String> head = new ArrayList<>(List.of("model", "", "Puna tokens/s"));
        first.peers.forEach(peer -> head.add(peer.name + " tokens/s"));
        first.peers.forEach(peer -> head.add("Puna / " + peer.name));
        if (first.busy > 0) {
            head.add("Puna, " + first.busy + " busy");
            first.peers.forEach(peer -> head.add(peer.name + ", " + first.busy + " busy"));
        }
        line(out, head);
        line(out, head.stream().map(cell -> "---").toList());
        for (BenchReport report : reports) {
            for (int i = 0; i < report.measures.size(); i++) {
                report.line(out, i);
            }
        }
    }

    private void line(PrintWriter out, int i) {
        List<String> cells = new ArrayList<>(List.of(model.getFileName().toString(),
                measures.get(i).label() + ", " + measures.get(i).tokens() + " tokens", figures(puna.quiet.get(i).median)));
        peers.forEach(peer -> cells.add(figures(peer.quiet.get(i).median)));
        peers.forEach(peer -> cells.add(String.format(Locale.ROOT, "%.2f", puna.ratio(peer, i))));
        if (busy > 0) {
            cells.add(String.format(Locale.ROOT, "%.0f %%", 100 * puna.share(i)));
            peers.forEach(peer -> cells.add(String.format(Locale.ROOT, "%.0f %%", 100 * peer.share(i))));
        }
        line(out, cells);
    }

    /** Three figures: more would not be there again. */
    private static String figures(double rate) {
        return String.format(Locale.ROOT, rate < 10 ? "%.2f" : rate < 100 ? "%.1f" : "%.0f", rate);
    }

    private static void line(PrintWriter out, List<String> cells) {
        out.println(cells.stream().collect(Collectors.joining(" | ", "| ", " |")));
    }
}
