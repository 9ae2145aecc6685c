//! Points of this module; see [`mod@cutwater_io::points`].

cutwater_io::points! {
    point IN_FLIGHT_BEFORE_ACK = "stream.in_flight.before_ack": "what an unaligned barrier overtook is durable, nobody knows";
    point OVERTOOK = "stream.overtook": "an unaligned barrier was put before all that lay in a task, whose state is not fixed";
    point BARRIER_SENT = "stream.barrier_sent": "a task has sent a barrier on and has not snapshotted its own state";
    point SOURCE_BEFORE_ACK = "stream.source.before_ack": "a source has fixed its positions, nobody knows";
    point SINK_BEFORE_STAGE = "stream.sink.before_stage": "the output of an epoch is closed, not staged";
    point SINK_AFTER_STAGE = "stream.sink.after_stage": "output is staged, not acknowledged";
    point SINK_BEFORE_COMMIT = "stream.sink.before_commit": "the checkpoint is durable, its output is not committed";
    point SINK_AFTER_COMMIT = "stream.sink.after_commit": "a transaction is committed, nobody knows";
    point SINK_BEFORE_DELETE = "stream.sink.before_delete": "a transaction is committed, its staged copies are still there";
    point SINK_BEFORE_RECOMMIT = "stream.sink.before_recommit": "a restored sink is about to commit what it was handed";
    buggify COMMIT_LATE = "stream.sink.commit_late": "a sink waits before it commits output of a durable checkpoint";
    sometimes ALIGNED_BLOCKED = "stream.aligned_blocked": "a snapshot was taken after a channel had been blocked for alignment";
    sometimes OVERTAKEN_INPUT = "stream.overtaken_input": "a barrier overtook what had arrived at a task";
    sometimes OVERTAKEN_OUTPUT = "stream.overtaken_output": "a barrier overtook what a task had not sent";
    sometimes OVERTAKEN_REPLAY = "stream.overtaken_replay": "a barrier overtook what was in flight before and had been restored";
    sometimes ALIGNMENT_TIMED_OUT = "stream.alignment_timed_out": "an alignment lasted too long and was given up for overtaking";
    sometimes IN_FLIGHT_PERSISTED = "stream.in_flight.persisted": "what a barrier overtook became part of a snapshot";
    sometimes IN_FLIGHT_REPLAYED = "stream.in_flight.replayed": "a restored task processed what had been in flight";
    sometimes IN_FLIGHT_RESCALED = "stream.in_flight.rescaled": "what had been in flight was handed to another parallelism";
    sometimes ALIGNMENT_SUPERSEDED = "stream.alignment_superseded": "a newer barrier ended an unfinished alignment";
    sometimes RECOMMITTED = "stream.sink.recommitted": "a transaction was committed at restore";
    sometimes RECOMMIT_FOUND = "stream.sink.recommit_found": "a transaction handed over at restore was committed already";
    sometimes RESTAGED = "stream.sink.restaged": "a transaction was staged again because its staging had not ended at the next barrier";
    sometimes DELETE_DEFERRED = "stream.sink.delete_deferred": "committed output stayed staged because an open checkpoint named it";
    sometimes TIMER_FIRED = "stream.timer_fired": "a timer of event time fired";
    sometimes TIMERS_INTERRUPTED = "stream.timers_interrupted": "timers were due for which the output had no room";
    sometimes LATE_DROPPED = "stream.late_dropped": "a record came after its window had closed";
    sometimes STOP_UNDONE = "stream.source.stop_undone": "the savepoint with which the job should end failed, and the source read on";
    sometimes SOURCE_RESUMED = "stream.source.resumed": "a source went on from a restored position";
}
