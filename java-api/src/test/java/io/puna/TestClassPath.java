package io.puna;

import java.io.File;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.List;

/** The class path of a process of its own that runs the library and its tests, which here may be modules. */
public final class TestClassPath {
    private TestClassPath() {
    }

    /** {@return the library's classes, those of the tests, and all that this process can see} */
    public static String get() throws URISyntaxException {
        return String.join(File.pathSeparator, List.of(location(LlamaModel.class), location(TestClassPath.class),
                System.getProperty("jdk.module.path", ""), System.getProperty("java.class.path")));
    }

    private static String location(Class<?> type) throws URISyntaxException {
        String file = type.getName().replace('.', '/') + ".class";
        String path = Path.of(type.getResource("/" + file).toURI()).toString();
        return path.substring(0, path.length() - file.length() - 1);
    }
}
