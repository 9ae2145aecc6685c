// Runs one small job on Flink and leaves a checkpoint or a savepoint behind; `make` says how. The job counts numbers by key
// in keyed state, and remembers a few of them in operator state; a second source ends at once, so that some operators
// finish.

import java.io.*;
import java.lang.reflect.Field;
import java.nio.file.*;
import java.util.*;
import java.util.stream.*;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.*;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.runtime.checkpoint.Checkpoints;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.metadata.*;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;

public class Make {
    static class Count extends KeyedProcessFunction<Long, Long, Long> implements CheckpointedFunction {
        private final long pauseMs;
        private transient ValueState<Long> count;
        private transient ListState<Long> remembered;

        Count(long pauseMs) {
            this.pauseMs = pauseMs;
        }

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Long.class));
        }

        @Override
        public void processElement(Long value, Context context, Collector<Long> out) throws Exception {
            Long before = count.value();
            count.update(before == null ? 1 : before + 1);
            out.collect(value);
            Thread.sleep(pauseMs);
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            remembered = context.getOperatorStateStore()
                    .getUnionListState(new ListStateDescriptor<>("remembered", Long.class));
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            remembered.update(List.of(context.getCheckpointId(), 7L));
        }
    }

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "run" -> run(Path.of(arguments[1]), arguments[2], Arrays.copyOfRange(arguments, 3, arguments.length));
            case "rewrite" -> rewrite(arguments[1], arguments[2], arguments[3]);
            case "describe" -> describe(arguments[1]);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.exit(0);
    }

    /** What to leave: "checkpoint", "canonical" or "native". The rest is configuration, key=value. */
    static void run(Path dir, String what, String[] settings) throws Exception {
        Configuration configuration = new Configuration();
        configuration.setString("execution.checkpointing.dir", dir.toUri().toString());
        configuration.setString("execution.checkpointing.interval", "400ms");
        configuration.setString(
                "execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        configuration.setString("rest.bind-port", "0");
        long pauseMs = 0;
        for (String setting : settings) {
            String[] pair = setting.split("=", 2);
            if (pair[0].equals("pause-ms")) {
                pauseMs = Long.parseLong(pair[1]);
            } else {
                configuration.setString(pair[0], pair[1]);
            }
        }
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
        env.setParallelism(2);
        env.setMaxParallelism(4);
        env.disableOperatorChaining();
        DataStream<Long> numbers = env.fromSequence(1, Long.MAX_VALUE).uid("numbers").name("Numbers");
        DataStream<Long> few = env.fromSequence(1, 3).uid("few").name("A few");
        long pause = pauseMs;
        numbers.union(few)
                .map(value -> {
                    Thread.sleep(pause == 0 ? 1 : 0);
                    return value;
                })
                .returns(Long.class)
                .keyBy(value -> value % 20)
                .process(new Count(pause))
                .uid("counts")
                .name("Counts \u00e4\ud83c\udf0a")
                .sinkTo(new DiscardingSink<>())
                .name("Nowhere");
        JobClient client = env.executeAsync("fixture");
        Path left = newest(dir, 2);
        if (!what.equals("checkpoint")) {
            SavepointFormatType format = SavepointFormatType.valueOf(what.toUpperCase());
            left = Path.of(java.net.URI.create(client.triggerSavepoint(dir.toUri().toString(), format).get()));
            client.cancel().get();
        } else {
            client.cancel().get();
            Thread.sleep(500);
            left = newest(dir, 1);
        }
        System.out.println("left " + left);
    }

    /** The newest checkpoint under the directory, once its number is large enough. */
    static Path newest(Path dir, int atLeast) throws Exception {
        for (int tries = 0; tries < 600; tries++) {
            Thread.sleep(100);
            if (!Files.exists(dir)) {
                continue;
            }
            try (Stream<Path> files = Files.walk(dir)) {
                Optional<Path> newest = files.filter(p -> p.getFileName().toString().equals("_metadata"))
                        .map(Path::getParent)
                        .filter(p -> p.getFileName().toString().startsWith("chk-") && number(p) >= atLeast)
                        .max(Comparator.comparingLong(Make::number));
                if (newest.isPresent()) {
                    return newest.get();
                }
            } catch (UncheckedIOException deletedMeanwhile) {
            }
        }
        throw new IllegalStateException("no checkpoint");
    }

    static long number(Path chk) {
        return Long.parseLong(chk.getFileName().toString().substring(4));
    }

    static CheckpointMetadata load(String path) throws Exception {
        try (DataInputStream in = new DataInputStream(new FileInputStream(path))) {
            return Checkpoints.loadCheckpointMetadata(in, Make.class.getClassLoader(), Path.of(path).toUri().toString());
        }
    }

    /** Writes the metadata anew with the serializer of another version of this Flink. */
    static void rewrite(String from, String version, String to) throws Exception {
        Class<?> type = Class.forName(
                "org.apache.flink.runtime.checkpoint.metadata.MetadataV" + version + "Serializer");
        Field instance = type.getField("INSTANCE");
        try (DataOutputStream out = new DataOutputStream(new FileOutputStream(to))) {
            Checkpoints.storeCheckpointMetadata(load(from), out, (MetadataSerializer) instance.get(null));
        }
    }

    /** What Flink itself reads in it. */
    static void describe(String path) throws Exception {
        CheckpointMetadata metadata = load(path);
        System.out.println("checkpoint " + metadata.getCheckpointId());
        for (OperatorState operator : metadata.getOperatorStates()) {
            System.out.println("operator " + operator.getOperatorID() + " parallelism " + operator.getParallelism()
                    + " max " + operator.getMaxParallelism() + " subtasks " + operator.getNumberCollectedStates()
                    + " finished " + operator.isFullyFinished() + " bytes " + operator.getStateSize());
        }
    }
}
