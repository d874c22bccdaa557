package io.puna.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.bindings.puna_h;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
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

    @Test
    void saysWhetherItsProductsRound() {
        try (Device rounding = Device.cpu(2, Device.Isa.REFERENCE, Device.Precision.BF16);
                Device plain = Device.cpu(2, Device.Isa.BASELINE, Device.Precision.BF16); Device exact = Device.cpu(2)) {
            assertThat(rounding.backend()).isEqualTo("cpu reference, 1 thread, products in BF16");
            assertThat(plain.backend()).isEqualTo("cpu baseline, 2 threads");
            assertThat(exact.backend()).doesNotContain("BF16");
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

    @ParameterizedTest
    @ValueSource(ints = {1, 1_023, 300_001})
    void copiesAndClearsTheHostsMemory(int elements) {
        try (Device device = Device.cpu(3); Arena arena = Arena.ofConfined()) {
            float[] values = new float[elements];
            for (int i = 0; i < elements; i++) {
                values[i] = i + 1;
            }
            Tensor from = Tensor.of(arena, values, Shape.of(elements));
            Tensor all = Tensor.allocate(arena, DType.F32, Shape.of(elements + 1));
            all.segment().setAtIndex(ValueLayout.JAVA_FLOAT, elements, -1);
            Tensor to = all.columns(0, elements);
            device.copy(to, from);
            assertThat(to.toFloatArray()).isEqualTo(values);
            device.clear(to);
            assertThat(to.toFloatArray()).containsOnly(0);
            assertThat(all.getFloat(0, elements)).isEqualTo(-1);
        }
    }

    @Test
    void copiesWhatAFileHolds(@TempDir Path folder) throws IOException {
        Path file = Files.write(folder.resolve("four"), new byte[] {0, 0, (byte) 128, 63});
        try (Device device = Device.cpu(1); Arena arena = Arena.ofConfined(); FileChannel channel = FileChannel.open(file)) {
            Tensor from = Tensor.of(channel.map(FileChannel.MapMode.READ_ONLY, 0, 4, arena), DType.F32, Shape.of(1));
            Tensor to = Tensor.allocate(arena, DType.F32, Shape.of(1));
            device.copy(to, from);
            assertThat(to.toFloatArray()).containsExactly(1);
            assertThatThrownBy(() -> device.copy(from, to)).isInstanceOf(IllegalArgumentException.class).hasMessageContaining("read-only");
            assertThatThrownBy(() -> device.clear(from)).isInstanceOf(IllegalArgumentException.class).hasMessageContaining("read-only");
        }
    }

    @Test
    void whatMayNotBeCopiedIsRefused() {
        Device device = Device.cpu(2);
        try (Arena arena = Arena.ofConfined()) {
            Tensor tensor = Tensor.of(arena, new float[] {1, 2, 3}, Shape.of(3));
            assertThatThrownBy(() -> device.copy(tensor.columns(1, 2), tensor.columns(0, 2))).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("to overlaps from");
            Tensor gone;
            try (Arena shorter = Arena.ofConfined()) {
                gone = Tensor.allocate(shorter, DType.F32, Shape.of(3));
            }
            assertThatThrownBy(() -> device.copy(gone, tensor)).isInstanceOf(IllegalStateException.class);
            assertThatThrownBy(() -> device.clear(gone)).isInstanceOf(IllegalStateException.class);
            device.close();
            assertThatThrownBy(() -> device.clear(tensor)).isInstanceOf(IllegalStateException.class).hasMessage("device is closed");
            assertThat(tensor.toFloatArray()).containsExactly(1, 2, 3);
        }
    }

    @Test
    void aHundredDevicesComeAndGo() {
        for (int i = 0; i < 100; i++) {
            Device.cpu(4).close();
        }
    }
}
