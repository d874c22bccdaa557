package io.puna.tensor;

/**
 * A device failed at a valid request: memory ran out, the device or its driver failed, or the library has a defect. What the
 * call was to write is unspecified. The message is the library's own sentence.
 */
public final class DeviceException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final int status;

    /**
     * Makes one.
     *
     * @param status a {@code PUNA_STATUS_*} value of the C header
     */
    public DeviceException(int status, String message) {
        super(message);
        this.status = status;
    }

    /** {@return the {@code PUNA_STATUS_*} value of the C header} */
    public int status() {
        return status;
    }
}
