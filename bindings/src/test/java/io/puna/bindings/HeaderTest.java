package io.puna.bindings;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.lang.foreign.GroupLayout;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.PaddingLayout;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The committed bindings are those of native/include/puna.h as it is now, and as this machine's C compiler lays it out. */
class HeaderTest {
    private static final Path HEADER = Path.of("..", "native", "include", "puna.h");
    private static final Path INCLUDES = Path.of("jextract", "includes.txt");

    @TempDir
    private Path directory;

    @Test
    void manifestNamesThisHeader() throws Exception {
        var manifest = new Properties();
        try (var in = Files.newInputStream(Path.of("jextract", "manifest.properties"))) {
            manifest.load(in);
        }
        var sha256 = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(HEADER)));
        assertThat(manifest.getProperty("header.sha256")).as("puna.h has changed: run bindings/jextract/regenerate")
                .isEqualTo(sha256);
        assertThat(manifest.getProperty("jextract.version")).isNotBlank();
        assertThat(manifest.getProperty("jextract.commit")).matches("[0-9a-f]{40}");
        assertThat(manifest.getProperty("libclang.version")).isNotBlank();
    }

    @Test
    void everyFunctionIsBoundAndInTheLibrary() throws Exception {
        NativeLibrary.load();
        var names = Pattern.compile("^PUNA_API [^(;]*?\\b(puna_[a-z0-9_]+)\\(", Pattern.MULTILINE)
                .matcher(Files.readString(HEADER)).results().map(match -> match.group(1)).toList();
        assertThat(names).hasSizeGreaterThan(20).doesNotHaveDuplicates()
                .containsExactlyInAnyOrderElementsOf(included("function").toList());
        for (var name : names) {
            var address = (MemorySegment) puna_h.class.getMethod(name + "$address").invoke(null);
            assertThat(address.address()).as(name).isNotZero();
        }
    }

    @Test
    void libraryAnswersWithTheHeadersVersion() {
        NativeLibrary.load();
        assertThat(puna_h.puna_abi_version()).isEqualTo(puna_h.PUNA_ABI_VERSION());
        assertThat(puna_h.puna_build_info().getString(0)).isNotBlank().doesNotContain("\n");
    }

    @Test
    void constantsAreTheCompilers() throws Exception {
        var expected = new StringBuilder();
        var program = new StringBuilder(PROLOGUE);
        for (var name : included("constant").toList()) {
            program.append("printf(\"").append(name).append(" %lld\\n\", (long long) ").append(name).append(");\n");
            expected.append(name).append(' ').append(puna_h.class.getMethod(name).invoke(null)).append('\n');
        }
        assertThat(expected).contains("PUNA_DTYPE_Q6_K 6");
        assertThat(expected.toString()).isEqualTo(run(program));
    }

    @Test
    void layoutsAreTheCompilers() throws Exception {
        var expected = new StringBuilder();
        var program = new StringBuilder(PROLOGUE);
        for (var name : included("struct").toList()) {
            var layout = (GroupLayout) Class.forName("io.puna.bindings." + name).getMethod("layout").invoke(null);
            program.append("printf(\"%s %zu %zu\\n\", \"").append(name).append("\", sizeof(").append(name).append("), _Alignof(")
                    .append(name).append("));\n");
            expected.append(name).append(' ').append(layout.byteSize()).append(' ').append(layout.byteAlignment()).append('\n');
            for (var member : layout.memberLayouts()) {
                if (member instanceof PaddingLayout) {
                    continue;
                }
                var field = member.name().orElseThrow();
                program.append("{ ").append(name).append(" s; printf(\"%s.%s %zu %zu %s\\n\", \"").append(name).append("\", \"")
                        .append(field).append("\", offsetof(").append(name).append(", ").append(field).append("), sizeof(s.")
                        .append(field).append("), TYPE(s.").append(field).append(")); }\n");
                expected.append(name).append('.').append(field).append(' ')
                        .append(layout.byteOffset(MemoryLayout.PathElement.groupElement(field))).append(' ')
                        .append(member.byteSize()).append(' ').append(((ValueLayout) member).carrier().getSimpleName()).append('\n');
            }
        }
        assertThat(expected).contains("puna_kv_sequence.cache 0 8 MemorySegment");
        assertThat(expected.toString()).isEqualTo(run(program));
    }

    private static final String PROLOGUE = """
            #include <stddef.h>
            #include <stdio.h>
            #include "puna.h"
            #define TYPE(x) _Generic((x), int32_t: "int", int64_t: "long", float: "float", default: "MemorySegment")
            int main(void) {
            """;

    private String run(StringBuilder program) throws IOException, InterruptedException {
        var executable = directory.resolve("table");
        Compiler.compile(program.append("return 0; }\n").toString(), executable, "-I", HEADER.getParent().toString());
        return Compiler.run(List.of(executable.toString()));
    }

    /** The names that the include list has of a kind. */
    private static Stream<String> included(String kind) throws IOException {
        return Files.readAllLines(INCLUDES).stream().filter(line -> line.startsWith("--include-" + kind + " "))
                .map(line -> line.substring(line.indexOf(' ') + 1));
    }
}
