package io.puna.bindings;

/** A process that loads the library twice and prints what comes of it: a process has one attempt, so each test needs its own. */
final class LoaderProbe {
    private LoaderProbe() {}

    public static void main(String[] args) {
        NativeLibraryException first = null;
        for (int i = 0; i < 2; i++) {
            try {
                NativeLibrary.load();
                System.out.println("loaded " + NativeLibrary.path() + " abi " + puna_h.puna_abi_version());
            } catch (NativeLibraryException e) {
                System.out.println(first == null ? e.getMessage() : e == first ? "again" : "another");
                first = e;
            }
        }
    }
}
