package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.atomic.AtomicReferenceArray;
import java.util.concurrent.locks.LockSupport;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Whatever is closed, by whichever thread and whenever: calls finish or throw, and the virtual machine lives. */
@Timeout(60)
class LifetimeTest {
    private static final int LAYERS = 2;
    private static final int HEADS = 2;
    private static final int HEAD_WIDTH = 64;
    private static final long WIDTH = HEADS * HEAD_WIDTH;

    private final ExecutorService threads = Executors.newCachedThreadPool();
    private final Arena arena = Arena.ofShared();
    private final Device device = Device.cpu(2);
    private final Workspace workspace = new Workspace();

    @AfterEach
    void close() throws InterruptedException {
        threads.shutdownNow();
        assertThat(threads.awaitTermination(10, TimeUnit.SECONDS)).isTrue();
        workspace.close();
        device.close();
        arena.close();
    }

    private static KvCache cache(int capacity) {
        return KvCache.allocate(LAYERS, HEADS, HEAD_WIDTH, capacity, DType.F32);
    }

    private Tensor rows(long rows) {
        return Tensor.allocate(arena, DType.F32, Shape.of(rows, WIDTH));
    }

    private static KvStep begin(Workspace workspace, KvCache cache, int rows) {
        return KvStep.begin(workspace, List.of(new KvStep.Part(cache, rows)));
    }

    private static <T> T get(Future<T> future) throws Exception {
        return future.get(30, TimeUnit.SECONDS);
    }

    private static void assertWaits(Future<?> future) {
        assertThatThrownBy(() -> future.get(50, TimeUnit.MILLISECONDS)).isInstanceOf(TimeoutException.class);
    }

    /** Calls until the call throws IllegalStateException, which is returned; anything else fails. */
    private Future<IllegalStateException> untilRefused(CountDownLatch running, Callable<?> call) {
        return threads.submit(() -> {
            while (true) {
                try {
                    call.call();
                } catch (IllegalStateException e) {
                    return e;
                }
                running.countDown();
            }
        });
    }

    @Test
    void closingADeviceWaitsForItsCalls() throws Exception {
        for (int round = 0; round < 20; round++) {
            Device own = Device.cpu(2);
            CountDownLatch running = new CountDownLatch(3);
            List<Future<IllegalStateException>> callers = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                Tensor x = rows(2000);
                callers.add(untilRefused(running, () -> {
                    LogSoftmax.forward(own, x, x);
                    return null;
                }));
            }
            running.await();
            own.close();
            for (Future<IllegalStateException> caller : callers) {
                assertThat(get(caller)).hasMessageMatching("device is closed|Already closed");
            }
        }
    }

    @Test
    void closingByManyThreadsAtOnceIsOneClose() throws Exception {
        Device own = Device.cpu(2);
        List<Future<?>> closers = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            closers.add(threads.submit(own::close));
        }
        for (Future<?> closer : closers) {
            get(closer);
        }
        assertThatThrownBy(own::handle).isInstanceOf(IllegalStateException.class);
    }

    @Test
    void anArenaInUseRefusesToCloseAndAClosedOneToBeUsed() throws Exception {
        for (int round = 0; round < 20; round++) {
            Arena own = Arena.ofShared();
            Tensor x = Tensor.allocate(own, DType.F32, Shape.of(2000, WIDTH));
            CountDownLatch running = new CountDownLatch(1);
            Future<IllegalStateException> caller = untilRefused(running, () -> {
                LogSoftmax.forward(device, x, x);
                LockSupport.parkNanos(100_000); // a caller without a pause could keep the arena from ever closing
                return null;
            });
            running.await();
            while (own.scope().isAlive()) {
                try {
                    own.close();
                } catch (IllegalStateException inUse) {
                    Thread.onSpinWait();
                }
            }
            assertThat(get(caller)).hasMessageMatching("[xy]: its memory is closed|Already closed");
        }
    }

    @Test
    void closingACacheWaitsForItsStep() throws Exception {
        KvCache cache = cache(8);
        Tensor x = rows(3);
        Tensor y = rows(3);
        Future<?> closer;
        try (KvStep step = begin(workspace, cache, 3)) {
            closer = threads.submit(cache::close);
            assertWaits(closer);
            step.append(device, 1, x, x);
            step.attend(device, y, x, 1, HEADS, 0, 1);
            step.commit();
            assertWaits(closer);
        }
        get(closer);
        assertThat(cache.length()).isEqualTo(3);
        cache.close();
        assertThatThrownBy(() -> begin(workspace, cache, 1)).isInstanceOf(IllegalStateException.class).hasMessage("cache is closed");
        assertThatThrownBy(() -> cache.truncate(0)).isInstanceOf(IllegalStateException.class).hasMessage("cache is closed");
    }

    @Test
    void aCacheRefusesToBeClosedOrTruncatedInsideItsOwnStep() {
        try (KvCache cache = cache(8)) {
            try (KvStep step = begin(workspace, cache, 3)) {
                assertThatThrownBy(cache::close).isInstanceOf(IllegalStateException.class).hasMessageContaining("close() inside the step");
                assertThatThrownBy(() -> cache.truncate(0)).isInstanceOf(IllegalStateException.class);
                step.append(device, 0, rows(3), rows(3));
            }
            cache.truncate(0);
        }
    }

    @Test
    void aCacheIsInOneStepOnce() {
        try (Workspace other = new Workspace(); KvCache cache = cache(8); KvCache second = cache(8)) {
            KvStep.Part part = new KvStep.Part(cache, 1);
            assertThatThrownBy(() -> KvStep.begin(workspace, List.of(part, part))).isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("each cache once");
            try (KvStep step = begin(workspace, cache, 1)) {
                assertThat(step.rows()).isEqualTo(1);
                assertThatThrownBy(() -> KvStep.begin(other, List.of(new KvStep.Part(second, 1), part)))
                        .isInstanceOf(IllegalStateException.class).hasMessageContaining("one step at a time");
            }
            KvStep.begin(other, List.of(new KvStep.Part(second, 1), part)).close();
        }
    }

    @Test
    void aWorkspaceHoldsOneStep() {
        try (KvCache cache = cache(8); KvCache other = cache(8)) {
            try (KvStep step = begin(workspace, cache, 1)) {
                assertThatThrownBy(() -> begin(workspace, other, 1)).isInstanceOf(IllegalStateException.class)
                        .hasMessageContaining("one step at a time");
                MatMul.forward(device, workspace, rows(1), rows(1), rows(WIDTH));
                step.append(device, 0, rows(1), rows(1));
            }
            begin(workspace, other, 1).close();
        }
    }

    @Test
    void aStepThatIsNotCommittedChangesNothing() {
        try (KvCache cache = cache(4)) {
            try (KvStep step = begin(workspace, cache, 3)) {
                step.append(device, 0, rows(3), rows(3));
            }
            assertThat(cache.length()).isZero();
            KvStep step = begin(workspace, cache, 3);
            step.commit();
            assertThat(cache.length()).isEqualTo(3);
            assertThatThrownBy(step::commit).isInstanceOf(IllegalStateException.class).hasMessage("step is committed");
            assertThatThrownBy(() -> step.append(device, 0, rows(3), rows(3))).isInstanceOf(IllegalStateException.class);
            step.close();
            step.close();
            assertThatThrownBy(step::commit).isInstanceOf(IllegalStateException.class).hasMessage("step is closed");
            assertThatThrownBy(() -> step.attend(device, rows(3), rows(3), 0, HEADS, 0, 1)).isInstanceOf(IllegalStateException.class);
            assertThatThrownBy(() -> begin(workspace, cache, 2)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("2 rows from position 3");
            cache.truncate(2);
            begin(workspace, cache, 2).close();
        }
    }

    @Test
    void aStepBelongsToItsThread() throws Exception {
        try (KvCache cache = cache(4); KvStep step = begin(workspace, cache, 1)) {
            for (Runnable call : List.<Runnable>of(step::commit, step::close, () -> step.append(device, 0, rows(1), rows(1)),
                    () -> step.attend(device, rows(1), rows(1), 0, HEADS, 0, 1))) {
                assertThatThrownBy(() -> get(threads.submit(call))).hasCauseInstanceOf(WrongThreadException.class);
            }
            step.append(device, 0, rows(1), rows(1));
        }
    }

    @Test
    void aWorkspaceServesOneCallAtATime() throws Exception {
        workspace.acquire();
        assertThatThrownBy(() -> MatMul.forward(device, workspace, rows(1), rows(1), rows(WIDTH)))
                .isInstanceOf(IllegalStateException.class).hasMessageContaining("one call at a time");
        Future<?> closer = threads.submit(workspace::close);
        assertWaits(closer);
        workspace.release();
        get(closer);
        workspace.close();
        assertThatThrownBy(() -> MatMul.forward(device, workspace, rows(1), rows(1), rows(WIDTH)))
                .isInstanceOf(IllegalStateException.class).hasMessage("workspace is closed");
        try (KvCache cache = cache(1)) {
            assertThatThrownBy(() -> begin(workspace, cache, 1)).isInstanceOf(IllegalStateException.class)
                    .hasMessage("workspace is closed");
        }
    }

    @Test
    void aWorkspaceClosedDuringAStepEndsTheStepsCallsOnly() {
        try (KvCache cache = cache(4)) {
            Workspace own = new Workspace();
            try (KvStep step = begin(own, cache, 1)) {
                own.close();
                assertThatThrownBy(() -> step.append(device, 0, rows(1), rows(1))).isInstanceOf(IllegalStateException.class)
                        .hasMessage("workspace is closed");
            }
            begin(workspace, cache, 1).close();
        }
    }

    @Test
    void aLargeCacheTakesMemoryOnlyAsItIsUsed() throws IOException {
        Path statm = Path.of("/proc/self/statm");
        assumeTrue(Files.exists(statm), "resident memory is read from /proc");
        long before = residentPages(statm);
        try (KvCache cache = KvCache.allocate(16, 8, 128, 8192, DType.F32)) {
            assertThat(cache.byteSize()).isEqualTo(1L << 30);
            assertThat(cache.memory(0).address() % 64).isZero();
            assertThat(residentPages(statm) - before).isLessThan((256 << 20) / 4096);
        }
    }

    /** Ids are checked before they are used: one that another thread changes in between may not lead out of the table. */
    @Test
    void idsThatChangeDuringACallReadNothingElse() throws Exception {
        Tensor ids = Tensor.allocate(arena, DType.I32, Shape.of(4000));
        AtomicBoolean stop = new AtomicBoolean();
        Future<?> changer = threads.submit(() -> {
            while (!stop.get()) {
                ids.segment().setAtIndex(ValueLayout.JAVA_INT, 3999, Integer.MAX_VALUE);
                LockSupport.parkNanos(1_000);
                ids.segment().setAtIndex(ValueLayout.JAVA_INT, 3999, 0);
                LockSupport.parkNanos(1_000);
            }
        });
        Tensor table = rows(1);
        Tensor y = rows(4000);
        int finished = 0;
        for (long end = System.nanoTime() + 300_000_000; System.nanoTime() < end;) {
            try {
                Embedding.forward(device, y, table, ids);
                finished++;
            } catch (IllegalArgumentException expected) {
                assertThat(expected).hasMessageContaining("ids[3999] is 2147483647");
            }
        }
        stop.set(true);
        get(changer);
        assertThat(finished).isPositive();
    }

    private static long residentPages(Path statm) throws IOException {
        return Long.parseLong(Files.readString(statm).split(" ")[1]);
    }

    @Test
    void interruptedClosersStillCloseAndStayInterrupted() throws Exception {
        KvCache cache = cache(4);
        KvStep step = begin(workspace, cache, 1);
        CountDownLatch interrupted = new CountDownLatch(1);
        Future<Boolean> closer = threads.submit(() -> {
            Thread.currentThread().interrupt();
            interrupted.countDown();
            cache.close();
            return Thread.interrupted();
        });
        interrupted.await();
        assertWaits(closer);
        step.close();
        assertThat(get(closer)).isTrue();
    }

    /** Threads that share devices, workspaces and caches, use them in any order, and close and replace them under each other. */
    @Test
    void anyOrderFromAnyThread() throws Exception {
        AtomicReference<Device> devices = new AtomicReference<>(Device.cpu(2));
        AtomicReferenceArray<Workspace> workspaces = new AtomicReferenceArray<>(new Workspace[] {new Workspace(), new Workspace()});
        AtomicReferenceArray<KvCache> caches = new AtomicReferenceArray<>(new KvCache[] {cache(40), cache(40), cache(40)});
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(1500);
        List<Future<Integer>> users = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            Random random = new Random(i);
            Tensor x = rows(60);
            Tensor y = rows(60);
            users.add(threads.submit(() -> {
                int finished = 0;
                while (System.nanoTime() < end) {
                    try {
                        act(random, devices, workspaces, caches, x, y);
                        finished++;
                    } catch (IllegalStateException | IllegalArgumentException expected) {
                        assertThat(expected).hasMessageMatching(
                                "(device|workspace|cache) is closed|Already closed|.*at a time.*|.*each cache once.*|parts\\[.*|newLength.*");
                    }
                }
                return finished;
            }));
        }
        int finished = 0;
        for (Future<Integer> user : users) {
            finished += get(user);
        }
        assertThat(finished).isPositive();
        devices.get().close();
        for (int i = 0; i < 2; i++) {
            workspaces.get(i).close();
        }
        for (int i = 0; i < 3; i++) {
            caches.get(i).close();
        }
    }

    private void act(Random random, AtomicReference<Device> devices, AtomicReferenceArray<Workspace> workspaces,
                     AtomicReferenceArray<KvCache> caches, Tensor x, Tensor y) {
        Device current = devices.get();
        Workspace scratch = workspaces.get(random.nextInt(workspaces.length()));
        int chosen = random.nextInt(caches.length());
        KvCache cache = caches.get(chosen);
        switch (random.nextInt(12)) {
            case 0 -> devices.getAndSet(Device.cpu(2)).close();
            case 1 -> workspaces.getAndSet(random.nextInt(workspaces.length()), new Workspace()).close();
            case 2 -> caches.getAndSet(chosen, cache(40)).close();
            case 3 -> cache.truncate(random.nextInt(cache.length() + 1));
            case 4 -> MatMul.forward(current, scratch, y.columns(0, 60), x, x);
            case 5 -> RmsNorm.forward(current, y, x, x.rows(0, 1), 1e-5f);
            default -> {
                KvCache other = caches.get(random.nextInt(caches.length()));
                int count = 1 + random.nextInt(20);
                try (KvStep step = KvStep.begin(scratch, List.of(new KvStep.Part(cache, count), new KvStep.Part(other, count)))) {
                    for (int layer = 0; layer < LAYERS; layer++) {
                        step.append(current, layer, x.rows(0, 2 * count), x.rows(0, 2 * count));
                        step.attend(current, y.rows(0, 2 * count), x.rows(0, 2 * count), layer, HEADS, 0, 1);
                    }
                    step.commit();
                }
            }
        }
    }
}
