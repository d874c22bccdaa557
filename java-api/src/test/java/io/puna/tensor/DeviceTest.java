package io.puna.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.bindings.puna_h;
import java.lang.foreign.MemorySegment;
import java.util.Locale;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class DeviceTest {
    @Test
    void takesEveryProcessorUnlessTold() {
        try (Device device = Device.cpu()) {
            int threads = Runtime.getRuntime().availableProcessors();
            assertThat(device.backend()).startsWith("cpu ").contains(" " + threads + " thread");
            assertThat(device).hasToString(device.backend());
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"REFERENCE", "BASELINE"})
    void runsTheInstructionSetAskedFor(Device.Isa isa) {
        try (Device device = Device.cpu(2, isa)) {
            assertThat(device.backend()).startsWith("cpu " + isa.name().toLowerCase(Locale.ROOT) + ", ");
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {Integer.MIN_VALUE, -1, 0, 1025, Integer.MAX_VALUE})
    void threadsOutOfRangeAreRefused(int threads) {
        assertThatThrownBy(() -> Device.cpu(threads)).isInstanceOf(IllegalArgumentException.class)
                .hasMessage("threads: expected 1 to 1024, got " + threads);
    }

    @Test
    void aClosedDeviceIsRefused() {
        Device device = Device.cpu(2);
        device.close();
        device.close();
        assertThatThrownBy(device::handle).isInstanceOf(IllegalStateException.class).hasMessage("device is closed");
        assertThat(device.backend()).startsWith("cpu ");
    }

    @Test
    void aStatusMeansAnException() {
        try (Device device = Device.cpu(1)) {
            Device.check(puna_h.PUNA_STATUS_OK());
            int invalid = puna_h.puna_add_forward(device.handle(), MemorySegment.NULL,
                    MemorySegment.NULL, -1);
            assertThatThrownBy(() -> Device.check(invalid)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("puna_add_forward: n is -1");
            assertThatThrownBy(() -> Device.check(puna_h.PUNA_STATUS_UNSUPPORTED()))
                    .isInstanceOf(UnsupportedOperationException.class);
            for (int status : new int[] {puna_h.PUNA_STATUS_OUT_OF_MEMORY(), puna_h.PUNA_STATUS_DEVICE_ERROR(),
                    puna_h.PUNA_STATUS_INTERNAL()}) {
                assertThatThrownBy(() -> Device.check(status)).isInstanceOfSatisfying(DeviceException.class,
                        e -> assertThat(e.status()).isEqualTo(status));
            }
        }
    }

    @Test
    void aHundredDevicesComeAndGo() {
        for (int i = 0; i < 100; i++) {
            Device.cpu(4).close();
        }
    }
}
