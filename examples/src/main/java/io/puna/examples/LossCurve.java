package io.puna.examples;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** A picture of a run's losses, as SVG: each step's, their running mean, and those of documents held out. */
final class LossCurve {
    private static final int WIDTH = 900;
    private static final int HEIGHT = 480;
    private static final int LEFT = 60;
    private static final int RIGHT = 20;
    private static final int TOP = 40;
    private static final int BOTTOM = 50;
    private static final int GRID_LINES = 6;
    private static final double MEAN_DECAY = 0.95;

    private record Point(long step, double loss) {
    }

    private final List<Point> losses = new ArrayList<>();
    private final List<Point> held = new ArrayList<>();

    void add(long step, double loss) {
        losses.add(new Point(step, loss));
    }

    void addHeldOut(long step, double loss) {
        held.add(new Point(step, loss));
    }

    /** {@return the picture} */
    String svg(String title) {
        long first = losses.isEmpty() ? 0 : losses.getFirst().step;
        long last = losses.isEmpty() ? 1 : Math.max(losses.getLast().step, first + 1);
        double low = Double.POSITIVE_INFINITY;
        double high = Double.NEGATIVE_INFINITY;
        for (Point point : losses) {
            low = Math.min(low, point.loss);
            high = Math.max(high, point.loss);
        }
        for (Point point : held) {
            low = Math.min(low, point.loss);
            high = Math.max(high, point.loss);
        }
        if (!(high > low)) {
            low = Double.isFinite(low) ? low - 1 : 0;
            high = low + 2;
        }
        StringBuilder svg = new StringBuilder();
        svg.append(String.format(Locale.ROOT, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\""
                + " font-size=\"13\">%n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>%n", WIDTH, HEIGHT));
        svg.append(String.format(Locale.ROOT, "<text x=\"%d\" y=\"24\" font-size=\"16\">%s</text>%n", LEFT, escape(title)));
        for (int i = 0; i <= GRID_LINES; i++) {
            double share = (double) i / GRID_LINES;
            double y = TOP + share * (HEIGHT - TOP - BOTTOM);
            svg.append(String.format(Locale.ROOT, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">"
                    + "%.2f</text>%n", LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, high - share * (high - low)));
            double x = LEFT + share * (WIDTH - LEFT - RIGHT);
            svg.append(String.format(Locale.ROOT, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%,d</text>%n", x, HEIGHT - BOTTOM + 22,
                    Math.round(first + share * (last - first))));
        }
        line(svg, losses, "#bcd4ee", 1, first, last, low, high);
        line(svg, mean(), "#1f5fa8", 2, first, last, low, high);
        line(svg, held, "#c0392b", 1, first, last, low, high);
        for (Point point : held) {
            svg.append(String.format(Locale.ROOT, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"#c0392b\"/>%n", x(point, first, last),
                    y(point, low, high)));
        }
        svg.append(String.format(Locale.ROOT, "<text x=\"%d\" y=\"24\" text-anchor=\"end\"><tspan fill=\"#1f5fa8\">training</tspan>"
                + " <tspan fill=\"#c0392b\">held out</tspan> (nats a token, by step)</text>%n</svg>%n", WIDTH - RIGHT));
        return svg.toString();
    }

    private List<Point> mean() {
        List<Point> mean = new ArrayList<>();
        for (Point point : losses) {
            double before = mean.isEmpty() ? point.loss : mean.getLast().loss;
            mean.add(new Point(point.step, MEAN_DECAY * before + (1 - MEAN_DECAY) * point.loss));
        }
        return mean;
    }

    private static void line(StringBuilder svg, List<Point> points, String colour, int width, long first, long last, double low,
            double high) {
        if (points.isEmpty()) {
            return;
        }
        svg.append(String.format(Locale.ROOT, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%d\" points=\"", colour, width));
        for (Point point : points) {
            svg.append(String.format(Locale.ROOT, "%.1f,%.1f ", x(point, first, last), y(point, low, high)));
        }
        svg.append("\"/>").append(System.lineSeparator());
    }

    private static double x(Point point, long first, long last) {
        return LEFT + (double) (point.step - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    }

    private static double y(Point point, double low, double high) {
        return TOP + (high - point.loss) / (high - low) * (HEIGHT - TOP - BOTTOM);
    }

    private static String escape(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;");
    }
}
